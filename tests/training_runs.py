"""Runs of the training stage that take seconds, what they leave, and interference with them."""

import pytest
import torch
from conftest import tiny_config, tiny_glow

from glow.config import TrainRun
from glow.training.checkpoints.reading import read_tensors
from glow.training.checkpoints.state import State
from glow.training.checkpoints.writing import Snapshot
from glow.training.metrics import read_metrics
from glow.training.trainer import Trainer
from pipelines import train as train_stage


def options(dataset, output, *extra):
    """Arguments of the train stage for a run of seconds."""
    return [
        "--config", "configs/smoke.yaml", "--data.path", str(dataset), "--output", str(output),
        "--model.hidden_channels", "8", "--train.num_steps", "8", "--train.batch_size", "12",
        "--train.validate_every", "4", "--train.checkpoint_every", "4", *extra,
    ]  # fmt: skip


def comparable(run):
    """Lines of metrics.jsonl without what depends on time."""
    return [{k: v for k, v in line.items() if not k.endswith(("_s", "_bytes"))} for line in read_metrics(run)]


def assert_same_checkpoint(a, b):
    for name in ("model", "ema", "optimizer"):
        left, right = read_tensors(a, name), read_tensors(b, name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


def train_main(arguments):
    train_stage.main(arguments)


def train_and(arguments, at_step, action, rank=0):
    """Train, and do something on one process before its step ``at_step``."""
    original = Trainer.train_step

    def step(self, *args):
        if self.step == at_step - 1 and self.accelerator.process_index == rank:
            action()
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        train_stage.main(arguments)


def snapshot(step, score=None):
    model = tiny_glow(torch.float32)
    state = State(step=step, images_seen=step, validation_bits_per_dim=score)
    return Snapshot({"model": model.state_dict(), "ema": model.state_dict()}, TrainRun("x", tiny_config()), state)
