"""The same command again goes on from the last checkpoint, as if nothing had happened."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import _rank_main, run_ranks, write_images
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import assert_same_checkpoint, comparable, options

from glow.config import PrepareRun
from glow.data.prepare.writer import prepare
from glow.data.read import order
from glow.training.checkpoints import writing
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.reading import read_state, verify
from glow.training.metrics import MetricsLog, read_metrics
from glow.training.trainer import Trainer
from pipelines import train as train_stage


def test_same_command_again_resumes_bitwise(dataset, tmp_path):
    through, resumed = tmp_path / "through", tmp_path / "resumed"
    train_stage.main(options(dataset, through))
    # Stopped between two checkpoints: what lies after the last one must be forgotten.
    with pytest.raises(Interrupted):
        train_with_fault(options(dataset, resumed), at_step=7)
    assert len(read_metrics(resumed)) == 6
    train_stage.main(options(dataset, resumed))
    assert_same_checkpoint(through / "checkpoints/step-00000008", resumed / "checkpoints/step-00000008")
    assert comparable(through) == comparable(resumed)
    board = EventAccumulator(str(resumed / "tensorboard/train")).Reload()
    assert [event.step for event in board.Scalars("1_likelihood/bits_per_dim")] == list(range(1, 9))


def test_a_run_keeps_its_order_of_images(dataset, tmp_path, monkeypatch):
    """Above some size, new runs begin with another order; the older of these runs began before."""
    older, through = tmp_path / "older", tmp_path / "through"
    train_stage.main(options(dataset, through))
    with pytest.raises(Interrupted):
        train_with_fault(options(dataset, older), at_step=7)
    monkeypatch.setattr(order, "MOST_SORTED", 10)
    train_stage.main(options(dataset, older))
    assert_same_checkpoint(through / "checkpoints/step-00000008", older / "checkpoints/step-00000008")
    newer, new_through = tmp_path / "newer", tmp_path / "new_through"
    train_stage.main(options(dataset, new_through))
    with pytest.raises(Interrupted):
        train_with_fault(options(dataset, newer), at_step=7)
    monkeypatch.undo()
    train_stage.main(options(dataset, newer))
    assert_same_checkpoint(new_through / "checkpoints/step-00000008", newer / "checkpoints/step-00000008")
    states = [read_state(run / "checkpoints/step-00000008") for run in (older, newer)]
    assert [state.order for state in states] == [1, 2]
    assert comparable(newer) != comparable(older)


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def train_with_fault(arguments, at_step):
    original = Trainer.train_step

    def step(self, *args):
        if self.step == at_step - 1:
            raise Interrupted
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        train_stage.main(arguments)


def killed_while_saving(arguments, point):
    """Train, and die of SIGKILL inside the second save."""
    torch.set_num_threads(1)
    saves = itertools.count()
    module, name = {"tensors": (writing, "save_file"), "rename": (Path, "rename")}[point]
    original = getattr(module, name)

    def dying(*args, **kwargs):
        original_result = None if point == "rename" else original(*args, **kwargs)
        # Three tensor files a save; one rename.
        if next(saves) == {"tensors": 4, "rename": 1}[point]:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs) if point == "rename" else original_result

    setattr(module, name, dying)
    train_stage.main(arguments)


@pytest.mark.parametrize("point", ["tensors", "rename"])
def test_kill_9_during_a_save_resumes_from_the_checkpoint_before(dataset, tmp_path, point):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    child = multiprocessing.get_context("fork").Process(target=killed_while_saving, args=(options(dataset, run), point))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [path.name for path in CheckpointManager(run).all()] == ["step-00000004"]
    assert list((run / "checkpoints").glob("*.partial"))
    train_stage.main(options(dataset, run))
    train_stage.main(options(dataset, undisturbed))
    assert_same_checkpoint(run / "checkpoints/step-00000008", undisturbed / "checkpoints/step-00000008")
    assert not list((run / "checkpoints").glob("*.partial"))


def test_resumed_run_logs_what_an_undisturbed_one_logs(dataset, tmp_path):
    extra = ["--train.log_every", "3", "--train.checkpoint_every", "4", "--train.validate_every", "100"]
    through, resumed = tmp_path / "through", tmp_path / "resumed"
    train_stage.main(options(dataset, through, *extra))
    with pytest.raises(Interrupted):
        train_with_fault(options(dataset, resumed, *extra), at_step=6)
    train_stage.main(options(dataset, resumed, *extra))
    assert comparable(through) == comparable(resumed)
    assert [line["step"] for line in read_metrics(resumed)] == [3, 6, 8]


def test_finished_run_trains_no_further(dataset, tmp_path, capsys):
    run = tmp_path / "run"
    train_stage.main(options(dataset, run))
    before = [(run / name).read_text() for name in ("metrics.jsonl", "config.yaml")]
    train_stage.main(options(dataset, run, "--optimizer.lr", "0.5"))
    assert [(run / name).read_text() for name in ("metrics.jsonl", "config.yaml")] == before
    assert capsys.readouterr().out.splitlines()[-1].endswith("step-00000008")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--model.hidden_channels", "9"], r"model\.hidden_channels: 9, but the run in .* started with 8"),
        (["--train.batch_size", "13"], r"train\.batch_size: 13, but the run"),
        (["--train.seed", "5"], r"train\.seed: 5, but the run"),
        (["--data.flip", "true"], r"data\.flip: True, but the run"),
    ],
)
def test_resuming_another_run_is_refused(dataset, tmp_path, extra, message):
    run = tmp_path / "run"
    train_stage.main(options(dataset, run, "--train.num_steps", "1"))
    with pytest.raises(ValueError, match=message):
        train_stage.main(options(dataset, run, *extra))


def test_options_that_changed_since_the_checkpoint_are_said(dataset, tmp_path, capsys):
    train_stage.main(options(dataset, tmp_path, "--train.num_steps", "1"))
    capsys.readouterr()
    train_stage.main(options(dataset, tmp_path, "--optimizer.lr", "0.003"))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("changed")]
    assert said == [
        "changed since the checkpoint: optimizer.lr 0.003 (was 0.002)",
        "changed since the checkpoint: train.num_steps 8 (was 1)",
    ]


def test_resuming_on_other_images_is_refused(dataset, tmp_path):
    run = tmp_path / "run"
    train_stage.main(options(dataset, run, "--train.num_steps", "1"))
    source = write_images(tmp_path / "images", 40)
    prepare(PrepareRun([str(source)], str(tmp_path / "other"), validation="4", num_workers=0))
    with pytest.raises(ValueError, match=r"other: not the images that the run in .* started with"):
        train_stage.main(options(tmp_path / "other", run))


def test_metrics_cut_short_by_a_kill_are_read_and_forgotten_on_resume(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a"')
    with MetricsLog(tmp_path, start_step=1):
        pass
    assert read_metrics(tmp_path) == [{"step": 1, "a": 1}]


def train_two(folder, arguments):
    """Start a training of two processes; return their context, without waiting."""
    return torch.multiprocessing.start_processes(
        _rank_main, (train_stage.main, 2, str(folder), (arguments,)), nprocs=2, join=False, start_method="fork"
    )


def test_random_rank_killed_at_random_moments_changes_nothing(dataset, tmp_path):
    # GLOW_FAULTS=20 for the long version.
    faults, rng, killed = int(os.environ.get("GLOW_FAULTS", "4")), random.Random(0), 0
    extra = ["--train.num_steps", "60", "--train.validate_every", "20", "--train.checkpoint_every", "3"]
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    run_ranks(train_stage.main, 2, options(dataset, undisturbed, *extra))
    for attempt in itertools.count():
        folder = tmp_path / f"attempt{attempt}"
        folder.mkdir()
        processes = train_two(folder, options(dataset, run, *extra)).processes
        if killed < faults:
            time.sleep(rng.uniform(0.2, 1.5))
            victim = rng.choice(processes)
            killed += victim.is_alive()
            victim.kill()
            for process in processes:
                process.join(timeout=1)  # the launcher ends the others
                process.kill()
        for process in processes:
            process.join()
        for checkpoint in CheckpointManager(run).all():
            verify(checkpoint)
        if all(process.exitcode == 0 for process in processes):
            if killed >= faults:
                break
            shutil.rmtree(run)  # finished too soon: once more from the start
    assert_same_checkpoint(run / "checkpoints/step-00000060", undisturbed / "checkpoints/step-00000060")
    assert comparable(run) == comparable(undisturbed)
