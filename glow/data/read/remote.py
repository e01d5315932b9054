"""Files of servers and object stores, by fsspec; nothing that a server says is believed without bounds.

File systems of fsspec do not survive a fork, so each call asks for one; fsspec keeps one in each process.
"""

from __future__ import annotations

import importlib.util
import re
import time
from typing import Any
from urllib.parse import urlsplit

import fsspec

from glow.files.limits import Limit

# What each protocol needs: a module, and the extra that installs it.
PROTOCOLS = {
    "http": ("aiohttp", "http"),
    "https": ("aiohttp", "http"),
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "hf": ("huggingface_hub", None),
}
UNKNOWN_SIZE = -1  # when a server does not say the size of a file
TIMEOUT_S = 30.0
LEAST_BYTES_PER_S = 10_000  # after the first TIMEOUT_S
CHUNK_BYTES = 2**20


def file_system(location: str) -> Any:
    """Return the file system of a URL.

    Raises:
        ValueError: when the package that it needs is not installed.
    """
    protocol = location.partition("://")[0]
    module, extra = PROTOCOLS[protocol]
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{location}: {protocol}:// needs the package {module}: pip install 'glow-flows[{extra}]'")
    if protocol not in ("http", "https"):
        return fsspec.filesystem(protocol)
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
    return fsspec.filesystem("http", client_kwargs={"timeout": timeout, "auto_decompress": False, "trust_env": True})


def list_remote(pattern: str) -> list[str]:
    """Return the files of an object store that a glob matches, sorted, with their protocol.

    Raises:
        ValueError: for http, which has no lists, and when the store cannot be read.
    """
    protocol = pattern.partition("://")[0]
    if protocol in ("http", "https"):
        raise ValueError(f"{pattern}: a web server has no list of files; name them, as in {{000..099}}")
    try:
        return sorted(f"{protocol}://{name}" for name in file_system(pattern).glob(pattern))
    except ValueError:
        raise
    except Exception as error:  # each store has errors of its own
        raise ValueError(f"{pattern}: cannot be listed: {' '.join(str(error).split())}") from error


def open_remote(location: str) -> Any:
    """Return a file of a URL as a stream.

    Raises:
        FileNotFoundError: when there is no such file.
        OSError: when it is worth while to try again.
        ValueError: when it is not.
    """
    try:
        if urlsplit(location).scheme in ("http", "https"):
            return _Timed(location, _request(location, {}))
        return file_system(location).open(location, "rb")
    except (OSError, ValueError):
        raise
    except Exception as error:  # each store has errors of its own
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error


def remote_size(location: str) -> int:
    """Return the size of a file of a URL.

    Raises:
        FileNotFoundError, OSError: as ``read_remote``.
        ValueError: when the server does not say it.
    """
    if urlsplit(location).scheme in ("http", "https"):
        _, size = read_remote(location, 0, 1, None)
        if size == UNKNOWN_SIZE:
            raise ValueError(f"{location}: the server does not say the size of the file")
        return size
    try:
        return int(file_system(location).info(location)["size"])
    except (OSError, ValueError):
        raise
    except Exception as error:  # each store has errors of its own
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error


def read_remote(location: str, start: int, end: int | None, most: Limit | None) -> tuple[bytes, int]:
    """Return the bytes ``start .. end - 1`` of a file, and the size of the file or ``UNKNOWN_SIZE``.

    Args:
        location: A URL.
        start: First byte.
        end: The byte after the last one. None: the end of the file.
        most: Limit of a whole file.

    Raises:
        FileNotFoundError: when there is no such file.
        OSError: when it is worth while to try again.
        ValueError: when it is not.
    """
    read = _read_http if urlsplit(location).scheme in ("http", "https") else _read_object
    try:
        return read(location, start, end, most)
    except (OSError, ValueError):
        raise
    except Exception as error:  # each store has errors of its own
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error


def _read_object(location: str, start: int, end: int | None, most: Limit | None) -> tuple[bytes, int]:
    """Read from an object store, which checks ranges itself."""
    system = file_system(location)
    if end is not None:
        return system.cat_file(location, start=start, end=end), UNKNOWN_SIZE
    size = int(system.info(location)["size"])
    if most is not None:
        most.check(location, size)
    return system.cat_file(location, start=start), size


def _read_http(location: str, start: int, end: int | None, most: Limit | None) -> tuple[bytes, int]:
    is_whole = start == 0 and end is None
    stream = _request(location, {} if is_whole else {"Range": f"bytes={start}-{'' if end is None else end - 1}"})
    if stream is None:  # the file ends before ``start``
        return b"", UNKNOWN_SIZE
    with stream:
        headers = stream.r.headers
        encoding = headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise ValueError(f"{location}: compressed by the server ({encoding[:20]}); parts of it cannot be read")
        if is_whole:
            declared = headers.get("Content-Length", "")
            if most is not None and declared.isdigit():
                most.check(location, int(declared))
            content = _read_bounded(location, stream, most.value if most else None)
            return content, len(content)
        if stream.r.status != 206:
            raise ValueError(f"{location}: the server does not support range requests, which parts of a file need")
        num_bytes, size = _part_of(headers.get("Content-Range", "none"), start, end)
        content = _read_bounded(location, stream, num_bytes)
        if len(content) != num_bytes:
            raise OSError(f"{len(content)} bytes, not those that were asked for")
        return content, size


def _request(location: str, headers: dict[str, str]) -> Any:
    """Return the body of the answer as a stream; None when the file has no such part."""
    try:
        # Block size 0 asks for a stream, and a size keeps fsspec from asking the server for it.
        headers |= {"Accept-Encoding": "identity"}
        return file_system(location).open(location, block_size=0, size=1, headers=headers)
    except FileNotFoundError:
        raise FileNotFoundError(f"{location}: not found") from None
    except Exception as error:
        status = getattr(error, "status", None)
        if status is None:
            raise
        if status == 410:
            raise FileNotFoundError(f"{location}: gone") from error
        if status == 416:
            return None
        raise OSError(f"HTTP status {status}") from error


def _part_of(content_range: str, start: int, end: int | None) -> tuple[int, int]:
    """Return the number of bytes of an answer, and the size of the file or ``UNKNOWN_SIZE``.

    Raises:
        OSError: when it is not the answer to a request for ``start .. end - 1``.

    Source: RFC 9110, section 14.4.
    """
    place = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", content_range)
    if place is None or int(place[1]) != start or (end is not None and int(place[2]) >= end):
        raise OSError(f"another part of the file than was asked for (Content-Range: {content_range[:80]})")
    return int(place[2]) + 1 - start, UNKNOWN_SIZE if place[3] == "*" else int(place[3])


def _read_bounded(location: str, stream: Any, most: int | None) -> bytes:
    """Read to the end, but not much more than ``most`` bytes, and not for ever.

    Raises:
        ValueError: when the server is too slow.
    """
    timed, parts = _Timed(location, stream), []
    while most is None or timed.num_bytes <= most:
        chunk = timed.read(CHUNK_BYTES)
        if not chunk:
            break
        parts.append(chunk)
    return b"".join(parts)


class _Timed:
    """A stream whose reads are timed; what its reader does between them does not count."""

    def __init__(self, location: str, stream: Any) -> None:
        self.location, self.stream = location, stream
        self.num_bytes, self.waited_s = 0, 0.0

    def __enter__(self) -> _Timed:
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.close()

    def read(self, size: int) -> bytes:
        """Read at most ``size`` bytes.

        Raises:
            ValueError: when the server is too slow.
        """
        begin = time.monotonic()
        chunk = self.stream.read(size)
        self.waited_s += time.monotonic() - begin
        self.num_bytes += len(chunk)
        if self.waited_s > TIMEOUT_S and self.num_bytes < LEAST_BYTES_PER_S * (self.waited_s - TIMEOUT_S):
            raise ValueError(f"{self.location}: too slow: {self.num_bytes} bytes in {self.waited_s:.0f} s")
        return chunk
