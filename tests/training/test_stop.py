"""Ending a training early: signals, a stop file, a time limit."""

import hashlib
import itertools
import json
import os
import signal
import threading
import time

import pytest
from conftest import run_ranks
from torch.multiprocessing import ProcessExitedException
from training_runs import assert_same_checkpoint, comparable, options, train_and

from glow.cli import run_stage
from glow.training import stop as stopping
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.reading import read_state
from glow.training.metrics import read_metrics
from glow.training.stop import StopRequest, parse_time
from glow.training.tasks.images import ImageTask
from pipelines import train as train_stage


@pytest.fixture(autouse=True)
def look_for_the_stop_file_at_every_step(monkeypatch):
    monkeypatch.setattr(stopping, "LOOK_S", 0)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def hang_up():
    os.kill(os.getpid(), signal.SIGHUP)


def signal_user_twice():
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize(
    ("action", "reason"),
    [(terminate, "SIGTERM"), (signal_user_twice, "SIGUSR1"), (hang_up, "SIGHUP"), (None, "stop file")],
)
def test_stopped_training_goes_on_as_if_nothing_had_happened(dataset, tmp_path, capsys, action, reason):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    extra = ["--train.log_every", "2"]
    train_and(options(dataset, run, *extra), 5, action or (run / "stop").touch)
    assert json.loads((run / "stopped.json").read_text()) == {"step": 5, "reason": reason}
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "stopped after step 5; give the same command to resume", str(run / "checkpoints/step-00000005"),
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
    assert read_state(CheckpointManager(tmp_path).all()[-1]).step == stopped["step"]


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


def test_first_ctrl_c_saves_and_ends_with_status_130(dataset, tmp_path, capfd):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as status:
        run_stage(lambda: train_and(options(dataset, tmp_path), 3, interrupt))
    assert status.value.code == 130
    assert json.loads((tmp_path / "stopped.json").read_text()) == {"step": 3, "reason": "SIGINT"}
    assert CheckpointManager(tmp_path).latest().name == "step-00000003"
    captured = capfd.readouterr()
    assert "interrupted: saving after this step; Ctrl-C again ends at once" in captured.err
    assert captured.out.splitlines()[-2] == "stopped after step 3; give the same command to resume"
    assert signal.getsignal(signal.SIGINT) == before
    train_stage.main(options(dataset, tmp_path))
    assert CheckpointManager(tmp_path).latest().name == "step-00000008"


def test_second_ctrl_c_ends_at_once(tmp_path):
    child = os.fork()
    if child == 0:
        with StopRequest(tmp_path):
            interrupt()
            interrupt()
            time.sleep(60)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGINT


def test_nohup_is_respected(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(tmp_path):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("launcher", "reason"), [("TORCHELASTIC_RUN_ID", "launcher ended"), ("SHELL", None)])
def test_end_of_the_launcher_is_a_reason_to_stop(tmp_path, monkeypatch, launcher, reason):
    monkeypatch.setenv(launcher, "x")
    stop = StopRequest(tmp_path)
    assert stop.reason() is None
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert stop.reason() == reason


def starve(monkeypatch, action, num_batches):
    """Let the batches of a training cease to come after some, and ask it to stop."""
    monkeypatch.setattr(stopping, "PATIENCE_S", 0.2)
    monkeypatch.setattr(stopping, "POLL_S", 0.05)
    train_batches = ImageTask.train_batches

    def batches(self, images_seen, share):
        yield from itertools.islice(train_batches(self, images_seen, share), num_batches)
        action()
        time.sleep(60)

    monkeypatch.setattr(ImageTask, "train_batches", batches)


def test_training_that_waits_for_data_saves_and_ends(dataset, tmp_path, monkeypatch):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    with monkeypatch.context() as patch:
        starve(patch, terminate, 6)
        train_stage.main(options(dataset, run, "--train.log_every", "4"))
    assert json.loads((run / "stopped.json").read_text()) == {"step": 6, "reason": "SIGTERM"}
    for output in (run, undisturbed):
        train_stage.main(options(dataset, output, "--train.log_every", "4"))
    assert_same_checkpoint(run / "checkpoints/step-00000008", undisturbed / "checkpoints/step-00000008")
    assert comparable(run) == comparable(undisturbed)


def test_training_that_waits_for_its_first_data_ends(dataset, tmp_path, monkeypatch):
    starve(monkeypatch, (tmp_path / "stop").touch, 0)
    with pytest.raises(ValueError, match=r"no data arrived before the training was asked to stop \(stop file\)"):
        train_stage.main(options(dataset, tmp_path))


def starve_last_process(arguments):
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "1":
            starve(patch, terminate, 3)
        train_stage.main(arguments)


def test_one_process_that_waits_for_data_ends_all_at_the_same_step(dataset, tmp_path):
    run_ranks(starve_last_process, 2, options(dataset, tmp_path))
    assert json.loads((tmp_path / "stopped.json").read_text()) == {"step": 3, "reason": "SIGTERM"}
    assert CheckpointManager(tmp_path).latest().name == "step-00000003"
    assert read_metrics(tmp_path)[-1]["step"] == 3


def hang_last_process(arguments, run, what):
    """Let process 1 ask process 0 to stop, and not take part any more."""
    run.mkdir(exist_ok=True)
    if os.environ["RANK"] == "0":
        (run / ".pid").write_text(str(os.getpid()))
        return train_stage.main(arguments)

    def hang():
        (run / "stop").touch() if what == "stop file" else os.kill(int((run / ".pid").read_text()), signal.SIGTERM)
        time.sleep(2)
        os._exit(0)

    train_and(arguments, 6, hang, rank=1)


@pytest.mark.parametrize("what", ["SIGTERM", "stop file"])
def test_a_process_that_waits_for_another_ends_with_a_file_that_says_so(dataset, tmp_path, monkeypatch, what):
    monkeypatch.setattr(stopping, "STUCK_S", 0.5)
    monkeypatch.setattr(stopping, "POLL_S", 0.1)
    run = tmp_path / "run"
    with pytest.raises(ProcessExitedException, match="process 0 terminated with exit code 1"):
        run_ranks(hang_last_process, 2, [*options(dataset, run)], run, what)
    assert json.loads((run / "stopped.json").read_text()) == {"step": 4, "reason": f"{what}, while waiting"}
    assert CheckpointManager(run).latest().name == "step-00000004"


def test_a_step_that_works_outside_of_python_is_not_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "STUCK_S", 0.3)
    monkeypatch.setattr(stopping, "POLL_S", 0.05)
    child = os.fork()
    if child == 0:
        with StopRequest(tmp_path) as stop:
            threading.Timer(0.1, terminate).start()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)  # a second and more in one call
            os._exit(3 if stop.reason() == "SIGTERM" else 4)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 3


def test_the_main_process_alone_looks_for_the_stop_file_once_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "LOOK_S", 1)
    looked = []
    monkeypatch.setattr(StopRequest, "_stop_file", lambda self: looked.append(self._is_main))
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        stop = StopRequest(tmp_path)
        assert [stop.reason() for _ in range(100)] == [None] * 100
    assert looked == [True]


def interrupt_last_process(arguments, world):
    try:
        train_and(arguments, 3, interrupt, rank=world - 1)
    except KeyboardInterrupt:
        return "interrupted"


def test_ctrl_c_on_one_process_ends_all(dataset, tmp_path):
    assert run_ranks(interrupt_last_process, 2, options(dataset, tmp_path), 2) == ["interrupted"] * 2
    assert json.loads((tmp_path / "stopped.json").read_text()) == {"step": 3, "reason": "SIGINT"}


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


def test_stop_file_of_a_finished_training_does_not_stop_the_next(dataset, tmp_path):
    train_and(options(dataset, tmp_path), 8, (tmp_path / "stop").touch)  # in the last step
    assert not (tmp_path / "stopped.json").exists()
    train_stage.main(options(dataset, tmp_path, "--train.num_steps", "12"))
    assert CheckpointManager(tmp_path).latest().name == "step-00000012"
