"""Checkpoints, and going on from them."""

import itertools
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from conftest import random_inputs, tiny_config, tiny_glow, write_images
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import assert_same_checkpoint, comparable, options, snapshot

from glow.config import ModelConfig, PrepareRun, TrainRun
from glow.data.prepare.writer import prepare
from glow.training.checkpoints import writing
from glow.training.checkpoints.manager import CheckpointManager, find_checkpoint
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import read_state
from glow.training.checkpoints.writing import Snapshot
from glow.training.metrics import MetricsLog, read_metrics
from glow.training.trainer import Trainer
from pipelines import train as train_stage

# Resuming


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
    board = EventAccumulator(str(resumed / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("train/bits_per_dim")] == list(range(1, 9))


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
        (["--model.hidden_channels", "9"], r"model\.hidden_channels: 9, but the run in .* was begun with 8"),
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
    with pytest.raises(ValueError, match=r"other: not the images that the run in .* was begun with"):
        train_stage.main(options(tmp_path / "other", run))


# Files


def test_old_checkpoints_are_removed_but_the_best_is_kept(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last=2)
    for step, score in enumerate([3.0, 1.0, 2.0, None, 4.0], start=1):
        manager.save(snapshot(step, score))
    assert [path.name[-1] for path in manager.all()] == ["2", "4", "5"]
    assert find_checkpoint(tmp_path, "best").name == "step-00000002"
    assert find_checkpoint(tmp_path).name == "step-00000005"
    assert find_checkpoint(tmp_path / "checkpoints/step-00000004").name == "step-00000004"


def test_loaded_model_needs_only_the_checkpoint_and_gives_the_same_numbers(tmp_path):
    path = CheckpointManager(tmp_path).save(snapshot(1))
    original, loaded = tiny_glow(torch.float32), load_model(path)
    inputs = random_inputs(original.config, 4, torch.float32)
    assert torch.equal(loaded(*inputs), original(*inputs))
    noise = torch.randn(2, original.num_dims)
    assert torch.equal(loaded.sample(noise, 0.7), original.sample(noise, 0.7))


def test_damaged_checkpoints_are_clear_errors(tmp_path):
    path = CheckpointManager(tmp_path).save(snapshot(1))
    weights = path / "ema.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"ema\.safetensors: damaged: its checksum is not the one in state\.json"):
        load_model(path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"ema\.safetensors: missing from the checkpoint"):
        load_model(path)
    (path / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state\.json: not a readable checkpoint state"):
        read_state(path)
    (path / "config.yaml").write_text("model: {widthh: 3}")
    with pytest.raises(
        ValueError, match=r"config\.yaml: not a readable configuration: ModelConfig has no field widthh"
    ):
        load_model(path)
    with pytest.raises(ValueError, match="no such checkpoint or run directory"):
        find_checkpoint(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no latest checkpoint there"):
        find_checkpoint(tmp_path / "empty")


def test_save_that_cannot_be_written_is_a_clear_error_and_leaves_no_checkpoint(tmp_path):
    def small_files(path):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with pytest.raises(OSError, match=r"model\.safetensors: cannot be written"):
            CheckpointManager(path).save(snapshot(2))
        os._exit(7)

    CheckpointManager(tmp_path).save(snapshot(1))
    child = multiprocessing.get_context("fork").Process(target=small_files, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == 7
    assert [path.name for path in CheckpointManager(tmp_path).all()] == ["step-00000001"]


def test_checkpoint_written_again_replaces_the_old_one(tmp_path):
    manager = CheckpointManager(tmp_path)
    manager.save(snapshot(1, 5.0))
    path = manager.save(snapshot(1, 4.0))
    assert read_state(path)["validation_bits_per_dim"] == 4.0
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_weights_of_another_model_are_refused(tmp_path):
    model = tiny_glow(torch.float32)
    wrong = Snapshot({"ema": model.state_dict()}, TrainRun("x", tiny_config(hidden_channels=9)), {"step": 1})
    path = CheckpointManager(tmp_path).save(wrong)
    with pytest.raises(ValueError, match="its weights do not fit its model"):
        load_model(path)


def test_config_in_a_checkpoint_cannot_run_code(tmp_path):
    path = CheckpointManager(tmp_path).save(snapshot(1))
    (path / "config.yaml").write_text(f"model: !!python/object/apply:os.mkdir ['{tmp_path}/made']")
    with pytest.raises(ValueError, match="not a readable configuration"):
        load_model(path)
    assert not (tmp_path / "made").exists()


def test_metrics_cut_short_by_a_kill_are_read_and_forgotten_on_resume(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a"')
    with MetricsLog(tmp_path, start_step=1):
        pass
    assert read_metrics(tmp_path) == [{"step": 1, "a": 1}]


def test_model_config_of_a_run_is_that_of_its_file(dataset, tmp_path):
    train_stage.main(options(dataset, tmp_path / "run", "--train.num_steps", "1", "--model.coupling", "additive"))
    assert load_model(tmp_path / "run").config == ModelConfig(
        image_shape=(3, 8, 8), num_bits=4, num_levels=2, num_steps_per_level=2, hidden_channels=8, coupling="additive"
    )
