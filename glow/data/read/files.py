"""Read the files of a data set, whole or in part, from a directory, over http(s), or from a command; with retries.

A location is a path, a URL, or ``pipe:`` and a shell command that writes the file to its standard output.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import io
import os
import re
import select
import shlex
import signal
import stat
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from glow.files.limits import Limit

PIPE = "pipe:"
RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0)
TIMEOUT_S = 30.0
UNKNOWN_SIZE = -1  # when a server does not say the size of a file

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
    return location.startswith((PIPE, "http://", "https://"))


def read_whole(location: str, limit: Limit) -> bytes:
    """Return a file, with the retries and errors of ``read_part``.

    Raises:
        ValueError: when it is larger than the limit.
    """
    content, size = read_part(location, 0, None if is_remote(location) else limit.value + 1)
    limit.check(location, max(size, len(content)))
    return content


def read_part(location: str, start: int = 0, end: int | None = None) -> tuple[bytes, int]:
    """Return the bytes ``start .. end - 1`` of a file, and the size of the file or ``UNKNOWN_SIZE``.

    A read that fails is repeated after 0.5, 1, 2 and 4 s. A server or a command that is silent for 30 s has failed.

    Args:
        location: A path, a URL, or ``pipe:COMMAND``.
        start: First byte.
        end: The byte after the last one. None: the end of the file.

    Raises:
        FileNotFoundError: when there is no such file; this is not tried again.
        ValueError: when the file cannot be read; names it.
    """
    if location.startswith(PIPE):
        read = _read_pipe
    else:
        read = _read_http if location.startswith(("http://", "https://")) else _read_local
    return _persistently(location, lambda: read(location, start, end))


def fetch(location: str, sha256: str, num_bytes: int) -> str:
    """Return the path of a local copy of the output of a ``pipe:`` command.

    The copy lies in the temporary directory (variable TMPDIR), named by its checksum. All processes on this machine and
    later runs use the same copy.

    Raises:
        ValueError: when the command fails, its output has another checksum, or the disk is full; names the command.
    """
    folder = Path(tempfile.gettempdir()) / f"glow-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise ValueError(f"{folder}: belongs to another user; set TMPDIR to a directory of your own")
    copy = folder / f"{sha256}.tar"
    with (folder / f"{sha256}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process fetches while the others wait
        if not copy.exists() or copy.stat().st_size != num_bytes:
            _persistently(location, lambda: _fetch(location, copy, sha256))
    return str(copy)


def _persistently(location: str, read: Callable[[], Result]) -> Result:
    for delay_s in (*RETRY_DELAYS_S, None):
        try:
            return read()
        except (FileNotFoundError, NotADirectoryError):
            raise
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                raise ValueError(f"{location}: cannot be read: {error.strerror}") from error
            if delay_s is None:
                tries = len(RETRY_DELAYS_S) + 1
                raise ValueError(f"{location}: cannot be read, tried {tries} times: {error}") from error
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


def _read_http(location: str, start: int, end: int | None) -> tuple[bytes, int]:
    whole = start == 0 and end is None
    headers = {} if whole else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(location, headers=headers), timeout=TIMEOUT_S) as response:
            content = response.read()
            if whole:
                return content, len(content)
            if response.status != 206:
                raise ValueError(f"{location}: the server does not support range requests, which parts of a file need")
            answer = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
            if answer is None or int(answer[1]) != start or len(content) != int(answer[2]) + 1 - start:
                raise OSError(f"{len(content)} bytes, not those that were asked for")
            return content, UNKNOWN_SIZE if answer[3] == "*" else int(answer[3])
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise FileNotFoundError(f"{location}: {error.reason}") from error
        if error.code == 416:  # the file ends before ``start``
            return b"", UNKNOWN_SIZE
        raise


def _read_pipe(location: str, start: int, end: int | None) -> tuple[bytes, int]:
    output = io.BytesIO()
    _run(location, output)
    return output.getvalue()[start:end], len(output.getvalue())


def _fetch(location: str, copy: Path, sha256: str) -> None:
    partial = copy.with_suffix(".partial")
    try:
        with partial.open("w+b") as file:
            _run(location, file)
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise OSError(f"its {file.tell()} bytes do not have the sha256 that dataset.json says")
            os.fsync(file.fileno())
        partial.replace(copy)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise ValueError(f"{copy.parent}: no room for a copy of {location}; set TMPDIR to another place") from error
        raise


def _run(location: str, output: BinaryIO) -> None:
    """Run a ``pipe:`` command and copy its output; raise an OSError when it fails or stalls."""
    command = location.removeprefix(PIPE)
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        ready = select.poll()
        ready.register(process.stdout)
        try:
            while ready.poll(1000 * TIMEOUT_S):
                chunk = os.read(process.stdout.fileno(), 2**20)
                if not chunk:
                    break
                output.write(chunk)
            else:
                raise TimeoutError(f"no output for {TIMEOUT_S:g} s")
            status = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"no end within {TIMEOUT_S:g} s of its output") from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the shell and all its children
        if status:
            messages.seek(0)
            lines = messages.read().decode(errors="replace").split("\n")
            message = next((line for line in reversed(lines) if line.strip()), "it says nothing")
            raise OSError(f"exit status {status}: {message}")
