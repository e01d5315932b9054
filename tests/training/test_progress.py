"""What a training shows: the mean loss and the speed of the steps since the last line, and a line for a validation."""

import re
import sys

import pytest
from accelerate import Accelerator
from training_runs import comparable, options

from glow import console
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.progress import Progress
from pipelines import train as train_stage


def test_loss_and_speed_are_those_of_the_steps_since_the_last_line():
    progress = Progress(Accelerator(cpu=True), batch_size=10)
    progress.add(9.0, waited_s=9.0, busy_s=9.0)
    progress.mean_loss(), progress.speed()
    progress.add(1.0, waited_s=0.0, busy_s=1.0)
    progress.add(2.0, waited_s=1.0, busy_s=3.0)
    assert progress.mean_loss() == 1.5
    speed = progress.speed()
    assert speed.pop("train/peak_memory_bytes") > 1e6
    assert speed == {
        "train/images_per_s": 5.0,
        "train/images_per_process_per_s": 5.0,
        "train/step_s": 2.0,
        "train/data_wait_s": 0.5,
        "train/data_wait_s_per_s": 0.25,
    }


def test_a_validation_is_one_line_of_output(dataset, tmp_path, capsys):
    train_stage.main(options(dataset, tmp_path, "--train.log_every", "2", "--train.validate_every", "3"))
    lines = {line["step"]: line for line in comparable(tmp_path)}
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")] == [
        f"step 3/8: validation {lines[3]['validation/bits_per_dim']:.4f} bits/dim",
        *(
            f"step {step}/8: train {lines[step]['train/bits_per_dim']:.4f}, "
            f"validation {lines[step]['validation/bits_per_dim']:.4f} bits/dim"
            for step in (6, 8)
        ),
    ]


def test_a_log_shows_where_the_training_is(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "FIRST_LINE_S", 0.0)
    train_stage.main(options(dataset, tmp_path))
    lines = capsys.readouterr().err.splitlines()
    losses = [line["train/bits_per_dim"] for line in comparable(tmp_path)]
    assert len(lines) == len(losses) == 8
    for step, (line, loss) in enumerate(zip(lines, losses, strict=True), 1):
        assert re.fullmatch(rf"step {step}/8: {loss:.3f} bits/dim, [\d,.]+ images/s, 00:0\d left", line)


class Lost:
    """A standard output that breaks at the line of a validation."""

    encoding = "utf-8"

    def write(self, text):
        if text.startswith("step 4/8"):
            raise BrokenPipeError

    def flush(self):
        pass


def test_what_is_printed_is_saved_before(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Lost())
    with pytest.raises(BrokenPipeError):
        train_stage.main(options(dataset, tmp_path))
    assert CheckpointManager(tmp_path).latest().name == "step-00000004"
    assert comparable(tmp_path)[-1]["step"] == 4
