"""Networks in half precision: training, scaling of the loss, and what a launcher may say."""

import math
import os

import pytest
import torch
from conftest import run_ranks
from training_runs import assert_same_checkpoint, comparable, options

from glow.training import loss_scale, starting
from glow.training.checkpoints.manager import find_checkpoint
from glow.training.checkpoints.reading import read_state, read_tensors
from glow.training.diagnosis import TrainingDiverged
from glow.training.ema import EMA
from glow.training.loss_scale import LossScale
from glow.training.metrics import read_metrics
from pipelines import train as train_stage


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_networks_train_like_float32(dataset, tmp_path, reset_accelerate, precision):
    exact, half = tmp_path / "exact", tmp_path / "half"
    train_stage.main(options(dataset, exact))
    reset_accelerate()
    train_stage.main(options(dataset, half, "--train.mixed_precision", precision))
    losses = [[line["train/bits_per_dim"] for line in read_metrics(run)] for run in (exact, half)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    tensors = read_tensors(find_checkpoint(half), "model").values()
    assert all(tensor.dtype not in (torch.bfloat16, torch.float16) for tensor in tensors)
    assert [("train/loss_scale" in line) for line in read_metrics(half)] == [precision == "fp16"] * 8


FIRST_EXPONENT = 22  # of a scale that is too high for the first steps


def train_in_fp16(arguments, first_scale):
    loss_scale.FIRST_SCALE = first_scale
    train_stage.main([*arguments, "--train.mixed_precision", "fp16"])


@pytest.mark.parametrize("extra", [[], ["--parallel.mode", "fsdp"], ["--parallel", "{mode: pipeline, stages: 2}"]])
def test_overflowing_steps_are_skipped_counted_and_do_not_advance_the_learning_rate(dataset, tmp_path, extra):
    run = tmp_path / "run"
    arguments = options(dataset, run, "--optimizer.warmup_steps", "8", "--train.microbatch_size", "3", *extra)
    run_ranks(train_in_fp16, 2, arguments, 2.0**FIRST_EXPONENT)
    lines = read_metrics(run)
    counts = [line["train/num_overflows"] for line in lines]
    assert 1 <= counts[-1] <= 6
    for step, (line, count, before) in enumerate(zip(lines, counts, [0, *counts], strict=False), 1):
        assert count - before in (0, 1)
        assert ("train/grad_norm" in line) == (count == before)
        assert math.isfinite(line["train/bits_per_dim"])
        assert line["train/lr"] == pytest.approx(2e-3 * (step - before) / 8)
    assert lines[-1]["train/loss_scale"] == 2.0 ** (FIRST_EXPONENT - counts[-1])
    state = read_state(find_checkpoint(run))
    assert state.num_overflows == counts[-1]
    assert state.loss_scale["scale"] == lines[-1]["train/loss_scale"]


def test_overflow_changes_nothing(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST_SCALE", 2.0**60)
    every = ["--train.mixed_precision", "fp16", "--train.checkpoint_every", "1", "--train.keep_last", "9"]
    train_stage.main(options(dataset, tmp_path, *every, "--train.num_steps", "2"))
    assert_same_checkpoint(*(tmp_path / "checkpoints" / f"step-{step:08d}" for step in (1, 2)))


def test_overflow_does_not_count_in_the_average(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST_SCALE", 2.0**FIRST_EXPONENT)
    updates = []
    monkeypatch.setattr(EMA, "weight", lambda self, step: updates.append(step) or 0.5)
    train_stage.main(options(dataset, tmp_path, "--train.mixed_precision", "fp16", "--train.num_steps", "10"))
    overflows = read_metrics(tmp_path)[-1]["train/num_overflows"]
    assert overflows > 0
    assert updates == list(range(1, 11 - overflows))


def test_scale_and_overflows_are_resumed(dataset, tmp_path, reset_accelerate, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST_SCALE", 2.0**27)
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    through, parts = tmp_path / "through", tmp_path / "parts"
    for run, ends in ((through, (12,)), (parts, (2, 5, 12))):
        for end in ends:
            reset_accelerate()
            train_stage.main(options(dataset, run, "--train.mixed_precision", "fp16", "--train.num_steps", str(end)))
    last = (run / "checkpoints/step-00000012" for run in (through, parts))
    assert_same_checkpoint(*last)
    mine, theirs = ({line["step"]: line for line in comparable(run)} for run in (through, parts))
    for step in (1, 2, 3, 6, 12):
        assert mine[step]["train/loss_scale"] == theirs[step]["train/loss_scale"]


def test_collapsing_scale_stops_training(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST_SCALE", 2.0**2)
    build = starting.build_model

    def spoiled(run, accelerator):
        model = build(run, accelerator)
        model.chain[1].bijector.bijectors[0].bias.register_hook(lambda gradient: gradient * math.inf)
        return model

    monkeypatch.setattr(starting, "build_model", spoiled)
    with pytest.raises(TrainingDiverged, match=r"step 3: .* seen in chain\.1\.\S*\.bias;.* loss scale is below 1"):
        train_stage.main(options(dataset, tmp_path, "--train.mixed_precision", "fp16", "--train.num_steps", "20"))


def test_scale_is_halved_and_doubled():
    scale = LossScale()
    assert scale.scale == 2.0**16
    scale.update(is_finite=False)
    for _ in range(loss_scale.GROWTH_INTERVAL - 1):
        scale.update(is_finite=True)
    assert scale.scale == 2.0**15
    scale.update(is_finite=True)
    assert scale.scale == 2.0**16
    for _ in range(16):
        scale.update(is_finite=False)
    assert scale.scale == 2.0**0
    assert not scale.is_collapsed
    scale.update(is_finite=False)
    assert scale.is_collapsed


def test_tests_of_the_cpu_see_no_gpu():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
