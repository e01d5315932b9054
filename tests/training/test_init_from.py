"""A training that starts from the weights of a trained model."""

import shutil

import pytest
import torch
from training_runs import assert_same_checkpoint

import glow
from glow.config import DataConfig, PlanRun, TrainRun
from glow.data.read.batch import Share
from glow.models.glow import Glow
from glow.training.checkpoints.exported import without_places
from glow.training.checkpoints.manager import SHIPPED, find_checkpoint
from glow.training.checkpoints.reading import read_config, read_state, read_tensors, sha256
from glow.training.tasks.find import find_task
from pipelines import plan, prepare, train

MODEL = ["--model.num_levels", "2", "--model.num_steps_per_level", "1", "--model.hidden_channels", "4"]


def arguments(dataset, output, *extra):
    return [
        "--data.path", str(dataset), "--output", str(output), "--train.num_steps", "2", "--train.batch_size", "4",
        "--train.validate_every", "2", "--train.preview_temperature", "0", *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def first(dataset, tmp_path_factory):
    """A short training."""
    path = tmp_path_factory.mktemp("first") / "run"
    train.main(arguments(dataset, path, *MODEL, "--optimizer.lr", "0.01"))
    return path


def test_it_has_model_and_averaged_weights_of_the_first_run(dataset, first, tmp_path):
    start = find_checkpoint(first)
    train.main(
        arguments(dataset, tmp_path, "--init_from", str(first), "--optimizer.lr", "1e-12", "--data.flip", "true")
    )
    end = find_checkpoint(tmp_path)
    assert read_config(end).model == read_config(start).model
    assert read_state(end).init_sha256 == sha256(start / "ema.safetensors")
    assert read_state(start).init_sha256 is None
    before, after = read_tensors(start, "ema"), read_tensors(end, "model")
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    other = read_tensors(start, "model")
    assert any((other[name] - after[name]).abs().max() > 1e-4 for name in after)  # not the raw weights


def test_it_resumes_bitwise_without_the_first_run(dataset, first, tmp_path):
    source = shutil.copytree(first, tmp_path / "source")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    init = ["--init_from", str(source)]
    train.main(arguments(dataset, whole, *init))
    train.main(arguments(dataset, parts, *init, "--train.num_steps", "1"))
    shutil.rmtree(source)
    with pytest.raises(ValueError, match=r"init_from: 'digits', but the run in .* started with .*source"):
        train.main(arguments(dataset, parts, "--init_from", "digits"))
    train.main(arguments(dataset, parts, *init))
    assert_same_checkpoint(find_checkpoint(whole), find_checkpoint(parts))
    assert read_state(find_checkpoint(parts)).init_sha256 == read_state(find_checkpoint(whole)).init_sha256


def test_actnorms_are_set_again_from_the_first_batch_by_option(dataset, first, tmp_path):
    init = ["--init_from", str(first), "--init_actnorm", "true", "--optimizer.lr", "1e-12"]
    train.main(arguments(dataset, tmp_path / "run", *init, "--train.num_steps", "1"))
    before, after = (
        read_tensors(find_checkpoint(first), "ema"),
        read_tensors(find_checkpoint(tmp_path / "run"), "model"),
    )
    weight, bias = "chain.1.bijector.bijectors.2.net.conv1.weight", "chain.1.bijector.bijectors.0.bias"
    torch.testing.assert_close(after[weight], before[weight], rtol=0, atol=1e-6)
    run = read_config(find_checkpoint(tmp_path / "run"))
    batch = next(find_task(run).train_batches(0, Share()))
    model = Glow(run.model)
    model.load_state_dict(before)
    model.initialize(*batch.inputs)
    torch.testing.assert_close(after[bias], model.state_dict()[bias], rtol=0, atol=1e-6)
    assert (after[bias] - before[bias]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="init_actnorm: true is not allowed; leave it out, or give init_from"):
        train.main(arguments(dataset, tmp_path / "other", "--init_actnorm", "true"))


def test_the_shipped_model_goes_on_with_images_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare.main(["--source", "digits", "--output", "data", "--validation", "20", "--test", "1700", "--seed", "5",
                  "--num_workers", "0"])  # fmt: skip
    train.main(arguments("data", "run", "--init_from", "digits", "--train.num_steps", "1", "--optimizer.lr", "1e-12"))
    assert read_state(find_checkpoint("run")).init_sha256 == sha256(SHIPPED / "digits/model.safetensors")
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    assert torch.allclose(glow.load("run").bits_per_dim(images), glow.load("digits").bits_per_dim(images), atol=1e-5)


def test_an_export_names_the_first_model_without_its_place():
    for given, kept in (("/home/ann/runs/first", "first"), ("digits", "digits"), (None, None)):
        assert without_places(TrainRun("/home/ann/runs/x", init_from=given)).init_from == kept
    assert without_places(TrainRun("x", trackers=("wandb",), tracker_project="secret")) == without_places(TrainRun("x"))


def test_plan_knows_its_model(first, dataset):
    run = plan.with_data(PlanRun("x", data=DataConfig(str(dataset)), init_from=str(first)))
    assert run.model == read_config(find_checkpoint(first)).model


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (MODEL[:4], r"model.hidden_channels: 512, but the model of init_from \(.*\) has 4; give 4, or leave out all"),
        ([*MODEL, "--model.scale", "tanh"], r"model.scale: 'tanh', but the model of init_from \(.*\) has None"),
        (["--init_from", "nowhere"], "nowhere: no such checkpoint"),
        (["--init_from", "digits"], r"digits: its weights do not fit its model: .*: \[4\], not \[12\]"),
    ],
)
def test_what_does_not_fit_is_one_line(dataset, first, tmp_path, extra, message):
    given = [] if "--init_from" in extra else ["--init_from", str(first)]
    with pytest.raises(ValueError, match=message):
        train.main(arguments(dataset, tmp_path / "run", *given, *extra))
    assert not (tmp_path / "run/checkpoints").exists()


def test_it_is_for_images(tmp_path):
    with pytest.raises(ValueError, match="init_from: 'digits' is not allowed; leave it out"):
        train.main(["--vectors.name", "moons", "--output", str(tmp_path), "--init_from", "digits"])
