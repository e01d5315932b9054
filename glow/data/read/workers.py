"""The worker processes of the data loader: how many, their signals and sockets, and what happens when one dies."""

from __future__ import annotations

import contextlib
import multiprocessing.queues
import multiprocessing.util
import os
import signal
import tempfile
from collections.abc import Iterator

# A socket's path has at most 107 bytes; multiprocessing adds /pymp-XXXXXXXX/listener-XXXXXXXX.
MAX_TMPDIR_BYTES = 107 - 32
SHORT = "/tmp"


def worker_count(asked: int, most: int) -> int:
    """Return how many workers to start: not more than ``most``, and than there are cores."""
    return min(asked, most, len(os.sched_getaffinity(0)))


def shorten_socket_paths() -> None:
    """Let the sockets of multiprocessing lie in /tmp where TMPDIR is too long for them. Call it before workers start.

    Raises:
        ValueError: when that is not possible.
    """
    chosen = tempfile.gettempdir()
    if len(os.fsencode(chosen)) <= MAX_TMPDIR_BYTES:
        return
    tempfile.tempdir = SHORT
    try:
        folder = multiprocessing.util.get_temp_dir()  # this process and its children keep it
    except OSError:
        folder = chosen
    finally:
        tempfile.tempdir = chosen
    if len(os.fsencode(folder)) > MAX_TMPDIR_BYTES + len("/pymp-XXXXXXXX"):
        raise ValueError(
            f"TMPDIR: {chosen} is too long for the sockets of worker processes, and {SHORT} cannot be written; give a "
            f"path of at most {MAX_TMPDIR_BYTES} bytes, or no workers"
        )


def start_worker(worker: int) -> None:
    """Prepare a worker process: it ends with its training process, or when it cannot hand over a batch."""
    # Launchers, SLURM and terminals send their signals to the workers too.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Private, but without it the thread that sends a batch drops it after an error, and training waits for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_give_up)  # type: ignore[attr-defined]


def _give_up(error: Exception, item: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"a data worker cannot hand over a batch: {' '.join(str(error).split())}\n".encode())
    os._exit(1)


@contextlib.contextmanager
def dead_workers_in_one_line() -> Iterator[None]:
    """Turn torch's error about a dead worker into one line. It comes at once, anywhere in the main thread.

    Raises:
        ValueError: when a worker died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ValueError(
            "data.num_workers: a worker process died, perhaps because memory, or shared memory in /dev/shm, ran out; "
            "give fewer workers"
        ) from error
