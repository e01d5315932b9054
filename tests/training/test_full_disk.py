"""A disk that is full in the middle of a training: a small file system of its own for the run directory."""

import shutil
import subprocess
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import assert_same_checkpoint, comparable, options, train_and

from glow.cli import run_stage
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.reading import verify
from glow.training.metrics import read_metrics
from pipelines import evaluate as evaluate_stage
from pipelines import sample as sample_stage
from pipelines import score as score_stage
from pipelines import train as train_stage

STEPS = 20
EXTRA = ["--train.num_steps", str(STEPS)]


@pytest.fixture
def mount(tmp_path):
    """A function that mounts a file system of so many bytes, or gives the one mounted another size."""
    directory = tmp_path / "mounted"
    directory.mkdir()

    def mount(size):
        how = "remount,size" if directory.is_mount() else "size"
        command = ["mount", "-t", "tmpfs", "-o", f"{how}={size}", "tmpfs", str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"needs a file system of its own, and mounting one is not permitted: {done.stderr.strip()}")
        return directory

    yield mount
    if directory.is_mount():
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def undisturbed(dataset, tmp_path):
    run = tmp_path / "undisturbed"
    train_stage.main(options(dataset, run, *EXTRA))
    return run


def bytes_on_disk(directory):
    return sum(4096 * (1 + path.stat().st_size // 4096) for path in directory.rglob("*"))


def error_of(main, capsys):
    """Run a stage as the command line does; return the one line that it leaves on stderr."""
    with pytest.raises(SystemExit) as status:
        run_stage(main)
    assert status.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def assert_goes_on(dataset, run, undisturbed):
    train_stage.main(options(dataset, run, *EXTRA))
    last = f"checkpoints/step-{STEPS:08d}"
    assert_same_checkpoint(run / last, undisturbed / last)
    assert comparable(run) == comparable(undisturbed)
    board = EventAccumulator(str(run / "tensorboard/train"), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in board.Scalars("1_likelihood/bits_per_dim")] == list(range(1, STEPS + 1))


def test_full_disk_at_a_checkpoint_is_one_line_and_the_checkpoint_before_is_intact(dataset, mount, undisturbed, capsys):
    one_checkpoint = bytes_on_disk(undisturbed / f"checkpoints/step-{STEPS:08d}")
    # A run keeps two; here is room for one and a half.
    run = mount(bytes_on_disk(undisturbed) - one_checkpoint // 2) / "run"
    capsys.readouterr()
    line = error_of(lambda: train_stage.main(options(dataset, run, *EXTRA)), capsys)
    assert line.startswith(f"error: {run}/checkpoints/step-00000008.partial/")
    assert ": cannot be written: " in line
    assert "No space left on device" in line
    assert 8 <= read_metrics(run)[-1]["step"] < STEPS
    (kept,) = CheckpointManager(run).all()
    assert kept.name == "step-00000004"
    verify(kept)
    mount(10 * bytes_on_disk(undisturbed))
    assert_goes_on(dataset, run, undisturbed)
    assert not list((run / "checkpoints").glob("*.partial"))


def test_full_disk_at_a_line_of_metrics_is_one_line_and_training_goes_on(dataset, mount, undisturbed, capsys):
    run = mount(10 * bytes_on_disk(undisturbed)) / "run"
    ballast = run.parent / "ballast"

    def fill():
        while not (run / "checkpoints/step-00000004").exists():  # written in the background
            time.sleep(0.01)
        free = shutil.disk_usage(run).free
        ballast.write_bytes(bytes(free))

    capsys.readouterr()
    line = error_of(
        lambda: train_and(options(dataset, run, *EXTRA, "--train.checkpoint_every", "100"), 6, fill), capsys
    )
    assert line.startswith(f"error: {run}: metrics cannot be written: ")
    assert "No space left on device" in line
    read_metrics(run)
    (kept,) = CheckpointManager(run).all()
    assert kept.name == "step-00000004"
    verify(kept)
    ballast.unlink()
    assert_goes_on(dataset, run, undisturbed)


@pytest.mark.parametrize(
    ("stage", "extra", "file"),
    [
        (sample_stage, ["--save_images", "true", "--num_images", "64", "--temperatures", "1"], "images-t1.00/0000"),
        (evaluate_stage, ["--baselines", "false"], "report.html"),
        (score_stage, ["--num_images", "5"], "scores.png"),
    ],
)
def test_full_disk_under_a_result_is_one_line_that_names_the_file(dataset, tmp_path, mount, capsys, stage, extra, file):
    run = tmp_path / "run"
    train_stage.main(options(dataset, run, "--train.num_steps", "1"))
    output = mount(5 * 4096) / "out"
    arguments = ["--checkpoint", str(run), "--output", str(output), *extra]
    arguments += [] if stage is sample_stage else ["--data", str(dataset)]
    capsys.readouterr()
    line = error_of(lambda: stage.main(arguments), capsys)
    assert line.startswith(f"error: {output}/{file}")
    assert line.endswith(": cannot be written: No space left on device")
    assert not [*output.glob("*.json")]
