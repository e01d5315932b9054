"""Run directories with the checkpoint of a tiny model that was not trained, only moved a little."""

import json

import torch
from conftest import perturb, tiny_config, tiny_glow

from glow.config import DataConfig, TrainRun
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.state import State
from glow.training.checkpoints.writing import Snapshot


def save_run(path, dataset, model, **changes):
    """Write a run directory with a checkpoint of a model, said to be trained on a data set."""
    config = TrainRun(str(path), tiny_config(**changes), DataConfig(path=str(dataset)))
    state = State(step=7, images_seen=84, validation_bits_per_dim=5.0)
    tensors = {"model": model.state_dict(), "ema": model.state_dict()}
    CheckpointManager(path).save(Snapshot(tensors, config, state))
    return path


def save_moved_run(path):
    """Write a run directory with a checkpoint whose averaged weights differ from the last ones, and its metrics."""
    model = tiny_glow(torch.float32)
    perturb(model, 0.02, seed=3)
    averaged = {name: value.clone() for name, value in model.state_dict().items()}
    perturb(model, 0.02, seed=4)
    state = State(step=7, images_seen=84, validation_bits_per_dim=5.0)
    CheckpointManager(path).save(
        Snapshot({"model": model.state_dict(), "ema": averaged}, TrainRun(str(path), tiny_config()), state)
    )
    lines = [{"step": n, "train/bits_per_dim": 8 - n / 9, "validation/bits_per_dim": 8.1 - n / 9} for n in range(1, 8)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
