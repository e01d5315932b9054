"""One writer at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

PATIENCE_S = 300.0  # with a holder that may be dead: file servers notice that late
POLL_S = 1.0
BEAT_S = 30.0  # between two signs of life
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(path: str | Path, what: str, gives_up: Callable[[], object] = lambda: False) -> Iterator[None]:
    """Hold the advisory lock on the file ``path``, which is created, and removed at the end.

    The system releases the lock when the process ends, however it ends. On a file system without locks, a second file
    that exists is the lock: it names its process, which touches it now and then.

    A lock of a living process of this host is an error at once. Any other is tried again for five minutes.

    Args:
        path: The file.
        what: What the lock protects.
        gives_up: Asked while the lock is tried again: whether to raise the error now.

    Raises:
        ValueError: when another process holds it; the message names ``what`` that process is writing.
    """
    lock = Path(path)
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = lock.with_name(f"{lock.name}.held")
    try:
        file = _wait_for(lock, _take_lock, what, gives_up)
    except OSError as error:
        lock.unlink(missing_ok=True)
        if error.errno not in WITHOUT_LOCKS:
            raise
        warnings.warn(f"{lock.parent}: this file system has no locks; {held} serves as one", stacklevel=3)
        lock = held
        file = _wait_for(lock, _take_file, what, gives_up)
    with file, _showing_life(lock):
        file.truncate(0)
        print(socket.gethostname(), os.getpid(), _start_of(os.getpid()), file=file, flush=True)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _wait_for(lock: Path, take: Callable[[Path], TextIO | None], what: str, gives_up: Callable[[], object]) -> TextIO:
    """Return the lock file, held by this process."""
    deadline, sign = time.monotonic() + PATIENCE_S, _sign_of_life(lock)
    is_told = False
    while (file := take(lock)) is None:
        host, number, start = _holder_of(lock)
        is_here, is_over = host == socket.gethostname(), time.monotonic() > deadline
        lives = (is_here and _start_of(number) == start) or (take is _take_file and _sign_of_life(lock) != sign)
        if not lives and take is _take_file and (is_here or is_over):
            lock.unlink(missing_ok=True)  # the system does not release this one
            continue
        by = f" (process {number} of {host})" if host else ""
        if lives or is_over or gives_up():
            raise ValueError(f"{what}: another process is writing it{by}; wait for its end or choose another")
        if not is_told:
            warnings.warn(f"{what}: another process{by} holds {lock}; trying for {PATIENCE_S:.0f} s", stacklevel=4)
            is_told = True
        time.sleep(POLL_S)
    return file


def _take_lock(lock: Path) -> TextIO | None:
    """Return the file with the system's lock; None when another process holds it."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(lock.open("a+"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        # The process before may have removed the file after it was opened here: then this lock protects nothing.
        if not lock.exists() or not os.path.samestat(lock.stat(), os.fstat(file.fileno())):
            return None
        stack.pop_all()
    return file


def _take_file(lock: Path) -> TextIO | None:
    """Create the file; return None when it exists."""
    try:
        return lock.open("x")
    except FileExistsError:
        return None


def _holder_of(lock: Path) -> tuple[str, int, str]:
    """Return host, number and start of the process that holds a lock; nothing of one that does not say."""
    with contextlib.suppress(OSError, ValueError):
        host, number, start = lock.read_text().split()
        return host, int(number), start
    return "", 0, ""


def _start_of(process: int) -> str | None:
    """Return when a process of this host started, in ticks of its clock; None when there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _sign_of_life(lock: Path) -> int | None:
    try:
        return lock.stat().st_mtime_ns
    except OSError:
        return None


@contextmanager
def _showing_life(lock: Path) -> Iterator[None]:
    """Touch a file now and then."""

    def touch() -> None:
        while not is_left.wait(BEAT_S):
            with contextlib.suppress(OSError):
                os.utime(lock)

    is_left = threading.Event()
    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_left.set()
        thread.join()
