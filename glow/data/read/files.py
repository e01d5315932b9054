"""Read the files of a data set, whole or in part, with retries: from disk, over http(s), from S3 and other stores, or
from a command.

A location is a path, a URL, or ``pipe:`` and a shell command that writes the file to its standard output.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import shlex
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from glow.data.read.pipe import PIPE, copy_output, read_output
from glow.data.read.remote import PROTOCOLS, open_remote, read_remote, remote_size
from glow.files.limits import Limit

RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0)
PART_BYTES = 2**24  # of a file that is copied
MOST_S = 45.0  # for all tries together; after that there is no further one

Result = TypeVar("Result")


def join(base: str | Path, name: str) -> str:
    """Return the location of the file ``name`` of a data set at ``base``.

    In a command, the name of the file replaces ``{}``.

    Raises:
        ValueError: when a command has no ``{}``.
    """
    base = str(base)
    if not base.startswith(PIPE):
        return f"{base.rstrip('/')}/{name}"
    if "{}" not in base:
        raise ValueError(f"{base}: the command needs {{}} where the name of the file belongs")
    return base.replace("{}", shlex.quote(name))


def is_remote(location: str) -> bool:
    """Return whether a location is a URL or a command."""
    return location.startswith((PIPE, *(f"{protocol}://" for protocol in PROTOCOLS)))


def read_whole(location: str, limit: Limit) -> bytes:
    """Return a file, with the retries and errors of ``read_part``.

    Raises:
        ValueError: when it is larger than the limit.
    """
    content, size = read_part(location, most=limit)
    limit.check(location, max(size, len(content)))
    return content


def read_part(location: str, start: int = 0, end: int | None = None, most: Limit | None = None) -> tuple[bytes, int]:
    """Return the bytes ``start .. end - 1`` of a file, and the size of the file or ``UNKNOWN_SIZE``.

    A read that fails is repeated after 0.5, 1, 2 and 4 s, for at most 45 s. A server or a command that is silent for 30
    s has failed.

    Args:
        location: A path, a URL, or ``pipe:COMMAND``.
        start: First byte.
        end: The byte after the last one. None: the end of the file.
        most: Limit of a whole file. Of a larger one, at least one byte more than the limit is returned.

    Raises:
        FileNotFoundError: when there is no such file; this is not tried again.
        ValueError: when the file cannot be read; names it.
    """
    if location.startswith(PIPE):
        return _persistently(location, lambda: read_output(location, start, end))
    if is_remote(location):
        return _persistently(location, lambda: read_remote(location, start, end, most))
    return _persistently(location, lambda: _read_local(location, start, most.value + 1 if most else end))


def download(location: str, path: Path, num_bytes: int | None = None) -> None:
    """Write a file of a server or an object store to ``path``, part by part, with the retries of ``read_part``.

    Args:
        location: The file.
        path: Where the copy is written.
        num_bytes: Its size. Default: what the server says.

    Raises:
        ValueError: when there is no such file, it cannot be read, or has another size.
    """
    partial = path.with_suffix(".partial")
    try:
        size = size_of(location) if num_bytes is None else num_bytes
        with partial.open("wb") as file:
            for start in range(0, size, PART_BYTES):
                content, _ = read_part(location, start, min(start + PART_BYTES, size))
                if len(content) != min(PART_BYTES, size - start):
                    raise ValueError(f"{location}: ends after {start + len(content)} bytes of {size}")
                file.write(content)
        partial.replace(path)
    except FileNotFoundError as error:
        raise ValueError(f"{location}: cannot be read: there is no such file") from error


def size_of(location: str) -> int:
    """Return the size of a file of a server or an object store, with the retries of ``read_part``.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be read, or the server does not say its size.
    """
    return _persistently(location, lambda: remote_size(location))


def open_stream(location: str) -> BinaryIO:
    """Open a file, or the body of a server's answer, to be read once from its beginning.

    Raises:
        ValueError: when it cannot be opened, after the retries of ``read_part``.
    """
    if location.startswith(PIPE):
        raise ValueError(f"{location}: commands cannot be streamed")
    try:
        if is_remote(location):
            return _persistently(location, lambda: open_remote(location))
        return Path(location).open("rb")
    except FileNotFoundError as error:
        raise ValueError(f"{location}: cannot be read: there is no such file") from error


def fetch(location: str, sha256: str, num_bytes: int) -> str:
    """Return the path of a local copy of the output of a ``pipe:`` command.

    The copy lies in the temporary directory (variable TMPDIR), named by its checksum. All processes on this machine and
    later runs use the same copy.

    Raises:
        ValueError: when the command fails, its output has another checksum, or the disk is full; names the command.
    """
    return _cached(
        f"{sha256}.tar", num_bytes, lambda copy: _persistently(location, lambda: copy_output(location, copy, sha256))
    )


def fetch_index(location: str, sha256: str, num_bytes: int) -> str:
    """Return the path of a local copy of the index of a split, from a server, an object store or a command.

    As that of ``fetch``, the copy serves all processes and later runs; its reader compares it with ``sha256``.

    Raises:
        ValueError: when there is no such file, or it cannot be read.
    """
    return _cached(f"{sha256}.samples", num_bytes, lambda copy: download(location, copy, num_bytes))


def _cached(name: str, num_bytes: int, write: Callable[[Path], None]) -> str:
    folder = Path(tempfile.gettempdir()) / f"glow-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise ValueError(f"{folder}: belongs to another user; set TMPDIR to a directory of your own")
    copy = folder / name
    with copy.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process fetches while the others wait
        if not copy.exists() or copy.stat().st_size != num_bytes:
            write(copy)
    return str(copy)


def _persistently(location: str, read: Callable[[], Result]) -> Result:
    start = time.monotonic()
    for num_tries, delay_s in enumerate((*RETRY_DELAYS_S, None), 1):
        try:
            return read()
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                raise ValueError(f"{location}: cannot be read: {error.strerror}") from error
            if delay_s is None or time.monotonic() - start + delay_s > MOST_S:
                times = "once" if num_tries == 1 else f"{num_tries} times"
                raise ValueError(f"{location}: cannot be read, tried {times}: {error}") from error
            time.sleep(delay_s)
    raise AssertionError


def _read_local(location: str, start: int, end: int | None) -> tuple[bytes, int]:
    path = Path(location)
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would keep us waiting
        raise ValueError(f"{location}: cannot be read: not a file")
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(start)
        return file.read(-1 if end is None else min(end, size) - start), size
