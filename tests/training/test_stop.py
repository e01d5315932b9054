"""Ending early, checkpoints in the background, damaged checkpoints, and processes that must agree."""

import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import time

import pytest
import torch
from accelerate import Accelerator
from conftest import _rank_main, run_ranks, tiny_glow
from training_runs import assert_same_checkpoint, comparable, options, snapshot, train_and

from glow.parallel.layout import Replicated
from glow.parallel.placement import Placement
from glow.training.checkpoints import reading, writing
from glow.training.checkpoints.background import BackgroundSaver
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.reading import read_state, read_tensors, verify
from glow.training.metrics import read_metrics
from glow.training.stop import StopRequest, parse_time
from glow.training.tasks import find
from pipelines import train as train_stage


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def signal_user_twice():
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize(
    ("action", "reason"), [(terminate, "SIGTERM"), (signal_user_twice, "SIGUSR1"), (None, "stop file")]
)
def test_stopped_training_goes_on_as_if_nothing_had_happened(dataset, tmp_path, capsys, action, reason):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    extra = ["--train.log_every", "2"]
    train_and(options(dataset, run, *extra), 5, action or (run / "stop").touch)
    assert json.loads((run / "stopped.json").read_text()) == {"step": 5, "reason": reason}
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "stopped after step 5; the same command goes on", str(run / "checkpoints/step-00000005"),
    ]  # fmt: skip
    train_stage.main(options(dataset, run, *extra))
    assert not (run / "stopped.json").exists()
    assert not (run / "stop").exists()
    train_stage.main(options(dataset, undisturbed, *extra))
    assert_same_checkpoint(run / "checkpoints/step-00000008", undisturbed / "checkpoints/step-00000008")
    assert comparable(run) == comparable(undisturbed)


def test_training_ends_within_its_time_limit(dataset, tmp_path):
    start = time.monotonic()
    train_stage.main(options(dataset, tmp_path, "--train.num_steps", "100000", "--time_limit", "3"))
    assert time.monotonic() - start < 6
    stopped = json.loads((tmp_path / "stopped.json").read_text())
    assert stopped["reason"] == "time limit"
    assert read_state(CheckpointManager(tmp_path).all()[-1])["step"] == stopped["step"]


def test_signal_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(tmp_path):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1:30", 90), ("02:00:01", 7201), ("1-00:00:05", 86405), ("0.5", 0.5)]
)
def test_time_limits_are_understood(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "1-2", "-5", "0"])
def test_other_time_limits_are_refused(dataset, tmp_path, text):
    with pytest.raises(ValueError, match=r"^time_limit: .* is not allowed"):
        train_stage.main([*options(dataset, tmp_path), f"--time_limit={text!r}"])


def stop_last_process(arguments, world):
    train_and(arguments, 3, terminate, rank=world - 1)


@pytest.mark.parametrize("world", [2, 3])
def test_one_process_stops_all_at_the_same_step(dataset, tmp_path, world):
    run_ranks(stop_last_process, world, options(dataset, tmp_path), world)
    assert json.loads((tmp_path / "stopped.json").read_text()) == {"step": 3, "reason": "SIGTERM"}
    assert read_metrics(tmp_path)[-1]["step"] == 3


@pytest.mark.parametrize("world", [2, 3])
def test_stopped_processes_go_on_as_if_nothing_had_happened(dataset, tmp_path, world):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    extra = ["--optimizer.name", "sgd", "--optimizer.lr", "0.05"]
    run_ranks(stop_last_process, world, options(dataset, run, *extra), world)
    for output in (run, undisturbed):
        run_ranks(train_stage.main, world, options(dataset, output, *extra))
    if world == 2:
        assert_same_checkpoint(run / "checkpoints/step-00000008", undisturbed / "checkpoints/step-00000008")
        assert comparable(run) == comparable(undisturbed)
    # DDP lays its buckets anew after the first step, and the sum of three numbers depends on their order.
    losses = [[line["train/bits_per_dim"] for line in read_metrics(output)] for output in (run, undisturbed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


# Checkpoints in the background


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
        aside = rf"optimizer\.safetensors: damaged: .* Set aside as .*step-00000008\.damaged-{number}"
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
        with pytest.raises(ValueError, match=r"model\.safetensors: damaged: .* of 2 checkpoints none is intact"):
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


def test_stop_file_of_a_finished_training_does_not_stop_the_next(dataset, tmp_path):
    train_and(options(dataset, tmp_path), 8, (tmp_path / "stop").touch)  # in the last step
    assert not (tmp_path / "stopped.json").exists()
    train_stage.main(options(dataset, tmp_path, "--train.num_steps", "12"))
    assert CheckpointManager(tmp_path).latest().name == "step-00000012"


def test_every_nth_checkpoint_is_kept(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last=1, keep_every=4)
    for step in range(1, 11):
        manager.save(snapshot(step))
    assert [int(path.name[-2:]) for path in manager.all()] == [4, 8, 10]


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


# Agreement


def train_differently(arguments, others):
    try:
        train_stage.main(arguments if os.environ["RANK"] == "0" else others)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--model.num_levels", "1"], "process 1 has another model.num_levels than process 0: 1, not 2"),
        (["--train.seed", "3"], "process 1 has another train.seed than process 0: 3, not 0"),
        (["--model.scale", "exp"], "process 1 has another model.scale than process 0: exp, not None"),
    ],
)
def test_process_with_other_options_is_named_before_the_model_is_built(dataset, tmp_path, extra, message):
    arguments = options(dataset, tmp_path / "run")
    assert run_ranks(train_differently, 2, arguments, [*arguments, *extra]) == [message] * 2
    assert not (tmp_path / "run").exists()


def test_process_with_other_data_is_named(dataset, tmp_path):
    link = tmp_path / "data"  # as on nodes that each have a copy of their own at the same place
    arguments = [*options(link, tmp_path / "run")]
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    manifest = json.loads((other / "dataset.json").read_text())
    manifest["splits"]["validation"]["sha256"] = "0" * 64
    (other / "dataset.json").write_text(json.dumps(manifest))
    errors = run_ranks(train_on_own_copy, 2, arguments, [str(dataset), str(other)], str(link))
    assert len(set(errors)) == 1
    assert errors[0].startswith(f"process 1 has another validation split than process 0: {'0' * 64}, not ")


def train_on_own_copy(arguments, copies, link):
    load = find.load_dataset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(find, "load_dataset", lambda path: load(copies[int(os.environ["RANK"])]))
        return train_differently(arguments, arguments)
