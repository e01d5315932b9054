"""The steps of a training are the same for any microbatches and any number of processes."""

import dataclasses
import itertools
import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import run_ranks, tiny_config
from training_runs import comparable, options, train_main

from glow.config import DataConfig, OptimizerConfig, TrainConfig, TrainRun
from glow.data.read.batch import Share
from glow.data.read.loader import train_batches
from glow.models.glow import Glow
from glow.parallel.layout import Replicated
from glow.parallel.placement import Placement
from glow.training.metrics import read_metrics
from glow.training.starting import initialize
from glow.training.trainer import Trainer
from pipelines import train as train_stage


def step_once(dataset, microbatch_size=None, batch_size=12, max_grad_norm=5.0, double=False, whitening_images=None):
    """Make two steps of this process's share from the same start; return losses, norms and weights."""
    accelerator = Accelerator(cpu=True)
    share = Share(accelerator.process_index, accelerator.num_processes)
    train = TrainConfig(
        batch_size=batch_size, microbatch_size=microbatch_size, num_steps=2, whitening_images=whitening_images
    )
    optimizer = OptimizerConfig(name="sgd", lr=0.1, beta1=0, max_grad_norm=max_grad_norm)
    run = TrainRun("unused", tiny_config(), DataConfig(str(dataset)), optimizer, train)
    batches = train_batches(run.data, batch_size, 0, 0, share)
    torch.manual_seed(0)
    model = Glow(run.model)
    if double:
        model = model.double()
        batches = (dataclasses.replace(batch, noise=batch.noise.double()) for batch in batches)
    batches = itertools.chain(initialize(model, partial(next, batches), train), batches)

    def weights():
        return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()

    start = weights()
    layout = Replicated(model, Placement(share.rank, share.num_processes), accelerator)
    trainer = Trainer(layout, model.num_dims, run, accelerator)
    losses = [trainer.train_step(next(batches))[:2]]
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


def test_a_new_training_initialises_its_model_in_microbatches(dataset, tmp_path, monkeypatch):
    def initialize(self, *inputs, **options):
        asked.append(options)
        original(self, *inputs, **options)

    asked, original = [], Glow.initialize
    monkeypatch.setattr(Glow, "initialize", initialize)
    train_stage.main(options(dataset, tmp_path, "--train.num_steps", "1", "--train.microbatch_size", "5"))
    assert asked == [{"microbatch_size": 5, "whitens": False}]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--model.permutation", "shuffle"], "model.permutation: 'shuffle' is not allowed; with whitening_images give"),
        (["--init_from", "digits"], "train.whitening_images: 20 is not allowed; leave it out: with init_from"),
        (["--vectors.name", "moons"], "train.whitening_images: 20 is not allowed; leave it out: it is for a Glow"),
        (["--train.whitening_images", "0"], "train.whitening_images: 0 is not allowed; give 1 or more"),
    ],
)
def test_whitening_that_cannot_be_is_refused(dataset, tmp_path, extra, message):
    data = [] if "--vectors.name" in extra else ["--data.path", str(dataset)]
    with pytest.raises(ValueError, match=re.escape(message)):
        train_stage.main(["--output", str(tmp_path / "run"), "--train.whitening_images", "20", *data, *extra])
    assert not (tmp_path / "run").exists()


def test_whitening_takes_whole_batches_and_trains_on_them_too(dataset, tmp_path, monkeypatch):
    def initialize(self, *inputs, **options):
        taken.append((len(inputs[0]), options["whitens"]))
        original(self, *inputs, **options)

    taken, original = [], Glow.initialize
    monkeypatch.setattr(Glow, "initialize", initialize)
    plain, white = tmp_path / "plain", tmp_path / "white"
    train_stage.main(options(dataset, plain))
    train_stage.main(options(dataset, white, "--train.whitening_images", "20"))
    size = int(read_metrics(plain)[0]["images_seen"]) // int(read_metrics(plain)[0]["step"])
    assert taken == [(size, False), (-(-20 // size) * size, True)]
    first, other = (read_metrics(run)[-1] for run in (plain, white))
    assert first["images_seen"] == other["images_seen"]
    assert first["train/bits_per_dim"] != other["train/bits_per_dim"]


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


@pytest.mark.parametrize("whitening_images", [None, 20])
@pytest.mark.parametrize("batch_size", [12, 13])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_make_exactly_the_step_of_one_in_float64(dataset, world, batch_size, whitening_images):
    alone = step_once(dataset, batch_size=batch_size, double=True, whitening_images=whitening_images)
    for result in run_ranks(step_once, world, dataset, 3, batch_size, 5.0, True, whitening_images):
        assert result["num_processes"] == world
        # The initialisation from data; of directions with nearly the same variance, rounding decides more.
        assert np.allclose(result["start"], alone["start"], rtol=0, atol=1e-10 if whitening_images else 1e-12)
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
