"""One writer at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: str | Path, what: str) -> Iterator[None]:
    """Hold the advisory lock on the file ``path``, which is created, and removed at the end.

    The system releases the lock when the process ends, however it ends.

    Raises:
        ValueError: when another process holds it; the message names ``what`` that process is writing.
    """
    lock = Path(path)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process before may have removed the file after it was opened here: then this lock protects nothing.
            if not lock.exists() or not os.path.samestat(lock.stat(), os.fstat(file.fileno())):
                raise BlockingIOError
        except BlockingIOError as error:
            raise ValueError(f"{what}: another process is writing it; wait for its end or choose another") from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
