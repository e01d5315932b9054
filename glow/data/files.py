"""Read files of a data set, or parts of them, from a directory or over http(s); what fails is tried again."""

from __future__ import annotations

import http.client
import io
import time
import urllib.error
import urllib.request
from pathlib import Path

RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0)
TIMEOUT_S = 30.0


def join(base: str | Path, name: str) -> str:
    """Return where a file of a data set lies: its path, or its URL."""
    return f"{str(base).rstrip('/')}/{name}"


def read_part(location: str, start: int = 0, end: int | None = None) -> tuple[bytes, int]:
    """Return the bytes ``start .. end - 1`` (None: all from ``start``) of a file, and the size of the whole file.

    A read that fails, or over http one that stalls for 30 s, is tried again after growing pauses.

    Raises:
        FileNotFoundError: when there is no such file; at once.
        ValueError: when it cannot be read; names it.
    """
    read = _read_http if location.startswith(("http://", "https://")) else _read_local
    for delay_s in (*RETRY_DELAYS_S, None):
        try:
            return read(location, start, end)
        except FileNotFoundError:
            raise
        except (OSError, http.client.HTTPException) as error:
            if delay_s is None:
                tries = len(RETRY_DELAYS_S) + 1
                raise ValueError(f"{location}: cannot be read, tried {tries} times: {error}") from error
            time.sleep(delay_s)
    raise AssertionError


def _read_local(location: str, start: int, end: int | None) -> tuple[bytes, int]:
    with Path(location).open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(start)
        return file.read(-1 if end is None else end - start), size


def _read_http(location: str, start: int, end: int | None) -> tuple[bytes, int]:
    whole = start == 0 and end is None
    headers = {} if whole else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(location, headers=headers), timeout=TIMEOUT_S) as response:
            content = response.read()
            if whole:
                return content, len(content)
            if response.status != 206:
                raise ValueError(f"{location}: the server does not answer requests for parts of a file")
            return content, int(response.headers["Content-Range"].rpartition("/")[2])
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise FileNotFoundError(f"{location}: {error.reason}") from error
        if error.code == 416:  # the file is shorter than what is asked for
            return b"", -1
        raise
