"""Files that a shell command writes to its standard output: ``pipe:COMMAND``."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import select
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

PIPE = "pipe:"
TIMEOUT_S = 30.0


def read_output(location: str, start: int, end: int | None) -> tuple[bytes, int]:
    """Return the bytes ``start .. end - 1`` of the output of a command, and its size.

    Raises:
        OSError: when the command fails or stalls.
    """
    output = io.BytesIO()
    _run(location, output)
    return output.getvalue()[start:end], len(output.getvalue())


def copy_output(location: str, copy: Path, sha256: str) -> None:
    """Write the output of a command to a file, if it has this checksum.

    Raises:
        OSError: when the command fails or stalls, or its output has another checksum.
        ValueError: when the disk is full.
    """
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
