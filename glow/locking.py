"""One writer at a time: an advisory lock, which the system releases when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: str | Path, what: str) -> Iterator[None]:
    """Hold the lock on the file ``path``, which is made, and removed at the end.

    Raises:
        ValueError: when another process holds it; ``what`` says what it is writing.
    """
    lock = Path(path)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process before may have removed the file after it was opened here: then the lock is that of nothing.
            if not lock.exists() or not os.path.samestat(lock.stat(), os.fstat(file.fileno())):
                raise BlockingIOError
        except BlockingIOError as error:
            raise ValueError(f"{what}: another process is writing it; wait for its end or choose another") from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
