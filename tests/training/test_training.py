"""Training: the stage, its steps, their equality for any number of processes, and what happens when it diverges."""

import dataclasses
import io
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from conftest import random_inputs, run_ranks, tiny_config, tiny_glow, write_images
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from training_runs import comparable, options, train_main

from glow.config import DataConfig, OptimizerConfig, PrepareRun, TrainConfig, TrainRun
from glow.data.prepare.writer import prepare
from glow.data.read.batch import Share
from glow.data.read.loader import train_batches
from glow.data.read.reader import SplitReader
from glow.evaluation.likelihood import Bound, score_split
from glow.locking import locked
from glow.models.glow import Glow
from glow.parallel.layout import Replicated
from glow.parallel.placement import Placement
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import read_tensors
from glow.training.diagnosis import TrainingDiverged
from glow.training.metrics import read_metrics
from glow.training.trainer import Trainer
from pipelines import train as train_stage

# The train stage


def test_training_lowers_the_loss_moves_weights_and_writes_everything(dataset, tmp_path):
    run = tmp_path / "run"
    train_stage.main(options(dataset, run, "--train.num_steps", "40", "--train.checkpoint_every", "20"))
    losses = [line["train/bits_per_dim"] for line in read_metrics(run)]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    assert read_metrics(run)[-1]["images_seen"] == 480
    last = run / "checkpoints" / "step-00000040"
    assert {path.name for path in last.iterdir()} == {
        "model.safetensors", "ema.safetensors", "optimizer.safetensors", "config.yaml", "state.json",
    }  # fmt: skip
    assert {path.name for path in run.iterdir()} == {
        "checkpoints", "config.yaml", "environment.json", "metrics.jsonl", "tensorboard",
    }  # fmt: skip
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["image_shape"] == [3, 8, 8]
    first, final = (read_tensors(run / "checkpoints" / f"step-{step:08d}", "model") for step in (36, 40))
    learned = [name for name in first if not name.endswith(("initialized", "permutation", "sign"))]
    assert all(not torch.equal(first[name], final[name]) for name in learned)
    raw, averaged = (load_model(run, weights=weights) for weights in ("raw", "ema"))
    assert not torch.equal(raw.chain[1].bijector.bijectors[0].bias, averaged.chain[1].bijector.bijectors[0].bias)
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0}).Reload()
    wanted = {"train/bits_per_dim", "validation/bits_per_dim", "train/lr", "train/grad_norm", "train/images_per_s"}
    wanted |= {"train/step_s", "train/data_wait_s", "train/peak_memory_bytes", "health/inverse_error", "health/prior_2"}
    wanted |= {"train/images_per_s", "train/images_per_process_per_s", "train/data_wait_s_per_s"}
    wanted |= {f"health/condition/{unit:03d}" for unit in (1, 2, 5, 6)}
    lines = read_metrics(run)
    assert all(0 < line["train/data_wait_s"] < line["train/step_s"] for line in lines)
    share = [line["train/data_wait_s"] / line["train/step_s"] for line in lines]
    assert [line["train/data_wait_s_per_s"] for line in lines] == pytest.approx(share)
    assert all(line["health/inverse_error"] < 1e-4 for line in lines if "health/inverse_error" in line)
    assert wanted <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("validation/bits_per_dim")] == list(range(4, 41, 4))
    assert Image.open(io.BytesIO(board.Images("samples")[-1].encoded_image_string)).size[0] > 50


def test_two_trainings_in_one_run_directory_are_refused(dataset, tmp_path):
    with locked(tmp_path / ".lock", "it"), pytest.raises(ValueError, match="another process is writing it"):
        train_stage.main(options(dataset, tmp_path))
    train_stage.main(options(dataset, tmp_path, "--train.num_steps", "1"))


def test_shift_beyond_the_image_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"data\.shift: 8, but the images of .* are \[3, 8, 8\]"):
        train_stage.main(options(dataset, tmp_path, "--data.shift", "8"))


def test_data_without_validation_split_trains(tmp_path, capsys):
    source = write_images(tmp_path / "images", 40)
    prepare(PrepareRun([str(source)], str(tmp_path / "data"), num_workers=0))
    train_stage.main(options(tmp_path / "data", tmp_path / "run"))
    assert "has no validation split: nothing is measured" in capsys.readouterr().out
    assert not any("validation/bits_per_dim" in line for line in read_metrics(tmp_path / "run"))


def test_validation_measures_the_averaged_weights(dataset, tmp_path):
    run = tmp_path / "run"
    train_stage.main(options(dataset, run, "--train.num_steps", "20", "--train.ema_decay", "0.99"))
    reader = SplitReader(dataset, "validation")

    def measure(weights):
        return np.mean(
            [
                score.bits_per_dim
                for score in score_split(load_model(run, weights=weights), reader, 64, Bound("elbo", 1, 0))
            ]
        )

    logged = read_metrics(run)[-1]["validation/bits_per_dim"]
    assert logged == pytest.approx(measure("ema"), abs=1e-5)
    assert abs(logged - measure("raw")) > 1e-3


@pytest.mark.parametrize("num_workers", ["0", "1"])
def test_damaged_shard_is_one_line_whoever_reads_it(dataset, tmp_path, num_workers):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    with (copy / "train-00003.tar").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"^[^\n]*train-00003\.tar: \d+ bytes, but dataset\.json says[^\n]*$"):
        train_stage.main(options(copy, tmp_path / "run", "--data.num_workers", num_workers))


def test_shape_that_is_not_that_of_the_data_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"model\.image_shape: \[1, 8, 8\], but the images of .* are \[3, 8, 8\]"):
        train_stage.main(options(dataset, tmp_path, "--model.image_shape", "[1, 8, 8]"))
    with pytest.raises(ValueError, match=r"divisible by 2\^num_levels = 16"):
        train_stage.main(options(dataset, tmp_path, "--model.num_levels", "4"))


def test_more_processes_than_the_group_are_refused(dataset, tmp_path, monkeypatch):
    Accelerator(cpu=True)  # keeps its state, and so does not see what the launcher says
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were launched, but this one belongs to a group of 1"):
        train_stage.main(options(dataset, tmp_path))


# Steps


def step_once(dataset, microbatch_size=None, batch_size=12, max_grad_norm=5.0, double=False):
    """Make two steps of this process's share from the same start; return losses, norms and weights."""
    accelerator = Accelerator(cpu=True)
    share = Share(accelerator.process_index, accelerator.num_processes)
    train = TrainConfig(batch_size=batch_size, microbatch_size=microbatch_size, num_steps=2)
    optimizer = OptimizerConfig(name="sgd", lr=0.1, beta1=0, max_grad_norm=max_grad_norm)
    run = TrainRun("unused", tiny_config(), DataConfig(str(dataset)), optimizer, train)
    batches = train_batches(run.data, batch_size, 0, 0, share)
    torch.manual_seed(0)
    model = Glow(run.model)
    if double:
        model = model.double()
        batches = (dataclasses.replace(batch, noise=batch.noise.double()) for batch in batches)
    first = next(batches)
    model.initialize(*first.inputs)

    def weights():
        return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()

    start = weights()
    layout = Replicated(model, Placement(share.rank, share.num_processes), accelerator)
    trainer = Trainer(layout, model.num_dims, run, accelerator)
    losses = [trainer.train_step(first)[:2]]
    after_first = weights()
    losses.append(trainer.train_step(next(batches))[:2])
    return {
        "losses": losses, "start": start, "after_first": after_first, "weights": weights(),
        "num_processes": accelerator.num_processes,
    }  # fmt: skip


def test_microbatches_make_the_same_step(dataset):
    whole, parts = step_once(dataset), step_once(dataset, microbatch_size=5)
    assert np.allclose(whole["losses"], parts["losses"], rtol=1e-5)
    assert np.allclose(whole["weights"], parts["weights"], atol=1e-5)


def test_gradients_are_clipped_to_their_norm(dataset):
    # The reported norm is that before clipping; a step of sgd without momentum is as long as the clipped gradient.
    free, clipped = (step_once(dataset, max_grad_norm=limit) for limit in (None, 0.01))
    assert free["losses"][0] == clipped["losses"][0]
    start = torch.tensor(free["start"])
    lengths = [(torch.tensor(result["after_first"]) - start).norm().item() / 0.1 for result in (free, clipped)]
    assert lengths[0] == pytest.approx(free["losses"][0][1], rel=1e-3)
    assert lengths[1] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("batch_size", [12, 13])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_make_the_step_of_one(dataset, world, batch_size):
    alone = step_once(dataset, batch_size=batch_size)
    for result in run_ranks(step_once, world, dataset, 3, batch_size):
        assert result["num_processes"] == world
        assert np.allclose(result["start"], alone["start"], atol=1e-6)  # ActNorm's initialisation
        assert np.allclose(result["losses"], alone["losses"], rtol=1e-5)
        assert np.allclose(result["weights"], alone["weights"], atol=1e-5)


@pytest.mark.parametrize("batch_size", [12, 13])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_make_exactly_the_step_of_one_in_float64(dataset, world, batch_size):
    alone = step_once(dataset, batch_size=batch_size, double=True)
    for result in run_ranks(step_once, world, dataset, 3, batch_size, 5.0, True):
        assert result["num_processes"] == world
        assert np.allclose(result["start"], alone["start"], rtol=0, atol=1e-12)  # ActNorm's initialisation
        assert np.allclose(result["losses"], alone["losses"], rtol=1e-10)
        assert np.allclose(result["weights"], alone["weights"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_train_like_one(dataset, tmp_path, world):
    alone, several = tmp_path / "alone", tmp_path / "several"
    # Adam and its kin divide by the size of gradients, those too that are nothing but rounding.
    extra = ["--optimizer.name", "sgd", "--optimizer.lr", "0.05"]
    train_stage.main(options(dataset, alone, *extra))
    run_ranks(train_main, world, options(dataset, several, *extra))
    for one, other in zip(comparable(alone), comparable(several), strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"health/inverse_error"}:
            assert one[key] == pytest.approx(other[key], rel=1e-5, abs=1e-6), key
    assert json.loads((several / "environment.json").read_text())["num_processes"] == world


# Thirds round where halves do not, and adamax divides small gradients by their size: the losses of three processes that
# begin with it differ by 1e-5.
@pytest.mark.parametrize(
    ("before", "after", "optimizer", "lr"),
    [(1, 2, "adamax", 1e-3), (2, 1, "adamax", 1e-3), (1, 3, "adamax", 1e-3), (3, 2, "sgd", 0.05), (3, 1, "sgd", 0.05)],
)
def test_training_goes_on_with_another_number_of_processes(dataset, tmp_path, before, after, optimizer, lr):
    through, resized = tmp_path / "through", tmp_path / "resized"
    extra = ["--optimizer.name", optimizer, "--optimizer.lr", str(lr)]
    train_stage.main(options(dataset, through, *extra, "--train.num_steps", "14"))
    for world, num_steps in ((before, "4"), (after, "14")):
        arguments = options(dataset, resized, *extra, "--train.num_steps", num_steps)
        run_ranks(train_main, world, arguments)
    for one, other in zip(read_metrics(through), read_metrics(resized), strict=True):
        assert one["train/bits_per_dim"] == pytest.approx(other["train/bits_per_dim"], rel=1e-5)


class TwoGaussians(nn.Module):
    """A density of vectors: nothing in the trainer knows of images."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return (-0.5 * (x - self.mean).square() - 0.5 * math.log(2 * math.pi)).sum(1)


class VectorBatch:
    skipped = ()

    def __init__(self, x):
        self.inputs = (x,)

    def __len__(self):
        return len(self.inputs[0])


def test_trainer_trains_vectors(tmp_path):
    run = TrainRun(
        str(tmp_path), optimizer=OptimizerConfig(name="adam", lr=0.1), train=TrainConfig(num_steps=60, batch_size=32)
    )
    rng = torch.Generator().manual_seed(0)
    batches = (VectorBatch(torch.randn(32, 3, generator=rng) + 2) for _ in itertools.count())
    accelerator = Accelerator(cpu=True)
    trainer = Trainer(Replicated(TwoGaussians(), Placement(0, 1), accelerator), 3, run, accelerator)
    held_out = VectorBatch(torch.full((5, 3), 2.0))
    trainer.fit(batches, lambda: [held_out], lambda model: {"mean": model.mean.mean().item()})
    assert (trainer.model.mean - 2).abs().max() < 0.3
    assert read_metrics(tmp_path)[-1]["validation/bits_per_dim"] == pytest.approx(0.5 * math.log2(2 * math.pi), abs=0.1)


def diverging(tmp_path, spoil):
    model = tiny_glow(torch.float32)
    run = TrainRun(str(tmp_path), train=TrainConfig(batch_size=4))
    accelerator = Accelerator(cpu=True)
    trainer = Trainer(Replicated(model, Placement(0, 1), accelerator), model.num_dims, run, accelerator)
    batch = VectorBatch(None)
    batch.inputs = random_inputs(model.config, 4, torch.float32)
    batch.__class__.__len__ = lambda self: len(self.inputs[0])
    spoil(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TrainingDiverged) as error:
        trainer.train_step(batch)
    after = model.state_dict()
    assert all(torch.equal(before[n].nan_to_num(9), after[n].nan_to_num(9)) for n in before)
    return str(error.value)


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("bijectors.2.net.conv2.weight", "bijector.bijectors.2.net"),
        ("bijectors.1.log_s", "bijector"),  # mixing and ActNorm are one map in the step
        ("bijectors.0.bias", "bijector"),
    ],
)
def test_non_finite_loss_names_step_layer_and_checkpoint_and_updates_nothing(tmp_path, parameter, layer):
    def spoil(model):
        with torch.no_grad():
            model.get_parameter(f"chain.2.bijector.{parameter}").view(-1)[0] = math.inf

    message = diverging(tmp_path, spoil)
    assert message.startswith("step 1: loss nan")
    assert f"first seen in chain.2.{layer};" in message
    assert "Last good checkpoint: none yet" in message


def test_non_finite_gradient_of_a_finite_loss_stops_too(tmp_path):
    def spoil(model):
        model.chain[2].bijector.bijectors[0].log_scale.register_hook(lambda gradient: gradient * math.nan)

    message = diverging(tmp_path, spoil)
    assert "gradient norm nan, first seen in chain.2.bijector.bijectors.0.log_scale" in message
