"""One writer at a time, also where the file system is in the way: dead nodes, no locks."""

import contextlib
import errno
import fcntl
import os
import re
import socket
import threading
import time

import pytest

from glow import locking
from glow.locking import locked


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(locking, "PATIENCE_S", 0.3)
    monkeypatch.setattr(locking, "POLL_S", 0.02)
    monkeypatch.setattr(locking, "BEAT_S", 0.02)


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK])
def without_locks(request, monkeypatch, impatient):
    def fail(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", fail)


def of_another_host(monkeypatch):
    name = socket.gethostname()
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    return name


def held_elsewhere(path, seconds):
    """Hold the lock as a process of another host does, for a while."""
    is_held = threading.Event()

    def hold():
        with locked(path, "it"):
            is_held.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    return thread


def test_a_lock_of_a_living_process_of_this_host_is_an_error_at_once(tmp_path):
    start = time.monotonic()
    with (
        locked(tmp_path / "lock", "it"),
        pytest.raises(ValueError, match=rf"it: another process is writing it \(process {os.getpid()} of"),
    ):
        locked(tmp_path / "lock", "it").__enter__()
    assert time.monotonic() - start < 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_a_lock_of_another_host_is_tried_again_for_a_while(tmp_path, monkeypatch, impatient, seconds):
    thread = held_elsewhere(tmp_path / "lock", seconds)
    of_another_host(monkeypatch)
    is_short = seconds < locking.PATIENCE_S
    outcome = contextlib.nullcontext() if is_short else pytest.raises(ValueError, match="another process is writing it")
    with pytest.warns(UserWarning, match=r"it: another process .* holds .*lock; trying for 0 s"):  # noqa: SIM117
        with outcome, locked(tmp_path / "lock", "it"):
            pass
    thread.join()


def test_waiting_for_a_lock_ends_when_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "POLL_S", 0.02)
    thread = held_elsewhere(tmp_path / "lock", 0.5)
    of_another_host(monkeypatch)
    asked = iter([False, True])
    with pytest.warns(UserWarning, match="trying"), pytest.raises(ValueError, match="another process"):
        locked(tmp_path / "lock", "it", lambda: next(asked)).__enter__()
    assert thread.is_alive()
    thread.join()


def test_a_file_system_without_locks_is_said_and_another_way_taken(tmp_path, without_locks):
    lock = locked(tmp_path / "lock", "it")
    with pytest.warns(UserWarning, match=r"has no locks; .*lock\.held serves as one"):
        lock.__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["lock.held"]
    with (
        pytest.warns(UserWarning, match="has no locks"),
        pytest.raises(ValueError, match=rf"is writing it \(process {os.getpid()} of"),
    ):
        locked(tmp_path / "lock", "it").__enter__()
    lock.__exit__(None, None, None)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.filterwarnings("ignore:.*(has no locks|trying for)")
@pytest.mark.parametrize("host", [socket.gethostname(), "elsewhere"])
def test_a_file_of_a_dead_process_is_taken_over(tmp_path, without_locks, host):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    (tmp_path / "lock.held").write_text(f"{host} {child} 12345\n")
    start = time.monotonic()
    with locked(tmp_path / "lock", "it"):
        assert re.match(rf"\S+ {os.getpid()} ", (tmp_path / "lock.held").read_text())
    assert (time.monotonic() - start < locking.PATIENCE_S) == (host == socket.gethostname())


@pytest.mark.filterwarnings("ignore:.*(has no locks|trying for)")
def test_a_file_that_another_host_touches_is_not_taken_over(tmp_path, without_locks, monkeypatch):
    thread = held_elsewhere(tmp_path / "lock", 1)
    of_another_host(monkeypatch)
    with pytest.raises(ValueError, match="another process"):
        locked(tmp_path / "lock", "it").__enter__()
    assert thread.is_alive()
    thread.join()


def test_other_errors_pass(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"):
        locked(tmp_path / "lock", "it").__enter__()
