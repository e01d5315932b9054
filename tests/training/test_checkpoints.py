"""Checkpoints: which are kept, the models in them, damaged ones, and those written in the background."""

import dataclasses
import multiprocessing
import os
import resource
import signal
import time

import pytest
import torch
from accelerate import Accelerator
from conftest import random_inputs, tiny_config, tiny_glow
from training_runs import assert_same_checkpoint, comparable, options, snapshot

from glow.config import ModelConfig, TrainRun
from glow.parallel.layout import Replicated
from glow.parallel.placement import Placement
from glow.training.checkpoints import manager, reading, writing
from glow.training.checkpoints.background import BackgroundSaver
from glow.training.checkpoints.manager import CheckpointManager, find_checkpoint
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import read_state, read_tensors
from glow.training.checkpoints.state import State
from glow.training.checkpoints.writing import Snapshot
from glow.training.metrics import read_metrics
from pipelines import train as train_stage


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
    with pytest.raises(
        ValueError, match=r"ema\.safetensors: damaged or changed: its checksum is not the one in state\.json"
    ):
        load_model(path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"ema\.safetensors: no such file"):
        load_model(path)
    (path / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state\.json: not readable JSON"):
        read_state(path)
    with pytest.raises(
        ValueError,
        match=r"nothing: no such checkpoint or run directory; give runs/NAME or runs/NAME/checkpoints/step-N$",
    ):
        find_checkpoint(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no latest checkpoint; give a run directory"):
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
    assert read_state(path).validation_bits_per_dim == 4.0
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_weights_of_another_model_are_refused(tmp_path):
    model = tiny_glow(torch.float32)
    wrong = Snapshot(
        {"ema": model.state_dict()}, TrainRun("x", tiny_config(hidden_channels=9)), State(step=1, images_seen=1)
    )
    path = CheckpointManager(tmp_path).save(wrong)
    with pytest.raises(ValueError, match="its weights do not fit its model"):
        load_model(path)


def test_model_config_of_a_run_is_that_of_its_file(dataset, tmp_path):
    train_stage.main(options(dataset, tmp_path / "run", "--train.num_steps", "1", "--model.coupling", "additive"))
    assert load_model(tmp_path / "run").config == ModelConfig(
        image_shape=(3, 8, 8), num_bits=4, num_levels=2, num_steps_per_level=2, hidden_channels=8, coupling="additive"
    )


def test_every_nth_checkpoint_is_kept(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last=1, keep_every=4)
    for step in range(1, 11):
        manager.save(snapshot(step))
    assert [int(path.name[-2:]) for path in manager.all()] == [4, 8, 10]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    written, save_file = [], writing.save_file

    def slow(*args):
        time.sleep(0.3)
        written.append(time.monotonic())
        save_file(*args)

    monkeypatch.setattr(writing, "save_file", slow)
    manager = CheckpointManager(tmp_path)
    with BackgroundSaver(manager) as saver:
        model = tiny_glow(torch.float32)
        layout = Replicated(model, Placement(0, 1), Accelerator(cpu=True))
        saver.save(dataclasses.replace(snapshot(1), tensors={"model": layout.gather(model.state_dict())}))
        returned = time.monotonic()
        with torch.no_grad():
            for value in model.parameters():
                value.fill_(99)  # training changes its weights at once
        assert manager.all() == []
    assert returned < written[0]
    name = next(iter(dict(model.named_parameters())))
    assert not (read_tensors(manager.all()[0], "model")[name] == 99).any()


def test_failed_write_is_an_error_at_the_next_step(dataset, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "save_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        train_stage.main(options(dataset, tmp_path))
    assert read_metrics(tmp_path)[-1]["step"] < 8
    assert CheckpointManager(tmp_path).all() == []


def test_damaged_newest_checkpoint_is_set_aside_loudly(dataset, tmp_path):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    for output in (run, undisturbed):
        train_stage.main(options(dataset, output))
    newest = run / "checkpoints/step-00000008"
    for number in (1, 2):  # and again
        with (newest / "optimizer.safetensors").open("r+b") as file:
            file.seek(500)
            file.write(b"damage")
        aside = rf"optimizer\.safetensors: damaged or changed: .* Set aside as .*step-00000008\.damaged-{number}"
        with pytest.warns(UserWarning, match=aside):
            train_stage.main(options(dataset, run))
        assert_same_checkpoint(newest, undisturbed / "checkpoints/step-00000008")
        assert comparable(run) == comparable(undisturbed)


def test_damaged_old_checkpoint_stands_in_nobodys_way(dataset, tmp_path):
    train_stage.main(options(dataset, tmp_path))
    (tmp_path / "checkpoints/step-00000004/state.json").write_text("{")
    train_stage.main(options(dataset, tmp_path, "--train.num_steps", "12"))
    assert CheckpointManager(tmp_path).latest().name == "step-00000012"


def test_training_does_not_begin_anew_over_damaged_checkpoints(dataset, tmp_path):
    train_stage.main(options(dataset, tmp_path))
    for path in tmp_path.glob("checkpoints/*/model.safetensors"):
        path.write_bytes(b"damage")
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"model\.safetensors: damaged or changed: .* of 2 checkpoints none is intact"
        ):
            train_stage.main(options(dataset, tmp_path))
    assert read_metrics(tmp_path)[-1]["step"] == 8


def test_checkpoint_that_cannot_be_read_at_the_moment_is_not_set_aside(dataset, tmp_path, monkeypatch):
    train_stage.main(options(dataset, tmp_path))

    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reading, "sha256", fail)
    with pytest.raises(OSError, match="Input/output error"):
        train_stage.main(options(dataset, tmp_path))
    assert not list(tmp_path.glob("checkpoints/*damaged*"))


@pytest.mark.parametrize("replaced", [1, 3])
def test_checkpoint_that_was_moved_elsewhere_stands_in_nobodys_way(tmp_path, replaced):
    manager = CheckpointManager(tmp_path, keep_last=1)
    path = manager.save(snapshot(1))
    elsewhere = tmp_path / "other-disk"
    path.rename(elsewhere)
    path.with_name(f"step-{replaced:08d}").symlink_to(elsewhere)
    for step in (2, 3, 4):
        manager.save(snapshot(step))
    assert [entry.name for entry in manager.directory.iterdir()] == ["step-00000004"]
    assert (elsewhere / "state.json").is_file()


def test_remains_of_a_save_are_removed_whatever_they_are_and_other_files_stay(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last=1)
    manager.save(snapshot(1))
    remains = [manager.directory / f"step-{step:08d}.partial" for step in (1, 2, 3)]
    remains[0].mkdir()
    (remains[0] / "model.safetensors").touch()
    remains[1].symlink_to(tmp_path)
    remains[2].touch()
    others = {"x.partial", "step-1.partial", "notes.txt"}
    for name in others:
        (manager.directory / name).touch()
    manager.save(snapshot(2))
    assert {entry.name for entry in manager.directory.iterdir()} == others | {"step-00000002"}


def test_failed_removal_is_a_warning_and_is_tried_again(dataset, tmp_path, monkeypatch):
    def fail(path):
        raise OSError(16, "Device or resource busy")

    def failing_only_for_a_while(path):
        calls.append(path)
        if len(calls) == 1:
            fail(path)
        remove(path)

    calls, remove = [], manager.remove
    monkeypatch.setattr(manager, "remove", failing_only_for_a_while)
    extra = ["--train.checkpoint_every", "1", "--train.keep_last", "1", "--train.validate_every", "8"]
    with pytest.warns(UserWarning, match=r"step-00000001: cannot be removed: .*busy; the next save tries it again"):
        train_stage.main(options(dataset, tmp_path, *extra))
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["step-00000008"]


@pytest.mark.parametrize("kind", ["file", "directory", "link", "state is a directory", "state is a link", "pipe"])
def test_what_is_no_checkpoint_but_named_like_one_is_set_aside(dataset, tmp_path, kind):
    train_stage.main(options(dataset, tmp_path))
    stray = tmp_path / "checkpoints/step-00000099"
    if kind == "file":
        stray.touch()
    elif kind == "link":
        stray.symlink_to(stray.name)
    else:
        stray.mkdir()
        if kind == "pipe":
            os.mkfifo(stray / "state.json")
        elif kind == "state is a directory":
            (stray / "state.json").mkdir()
        elif kind == "state is a link":
            (stray / "state.json").symlink_to("state.json")
    with pytest.warns(UserWarning, match=r"step-00000099.*: (no such file|not a file.*)\. Set aside as .*damaged-1"):
        train_stage.main(options(dataset, tmp_path, "--train.num_steps", "9"))
    assert os.path.lexists(stray.with_suffix(".damaged-1"))
    assert CheckpointManager(tmp_path).latest().name == "step-00000009"


@pytest.mark.parametrize("which", ["latest", "best"])
def test_next_intact_checkpoint_of_a_run_is_used_with_a_warning(tmp_path, which):
    checkpoints = CheckpointManager(tmp_path, keep_last=3)
    first, second, third = (checkpoints.save(snapshot(step, 3.0 - step)) for step in (1, 2, 3))
    (third / "ema.safetensors").write_bytes(b"damage")
    (second / "state.json").write_text("{")
    with pytest.warns(UserWarning, match=f"; using {first}") as warned:
        assert find_checkpoint(tmp_path, which) == first
    assert len(warned) == 2
    with pytest.raises(ValueError, match=r"step-00000002/state\.json: not readable JSON"):
        load_model(second)
    with pytest.raises(ValueError, match=r"ema\.safetensors: damaged"):
        load_model(third)
    (first / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r", and of 3 checkpoints none is intact$"):
        find_checkpoint(tmp_path, which)
