"""Files that appear when they are whole, and survive a crash of the machine."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place, and rename it when it is on the disk; texts in UTF-8.

    Raises:
        OSError: when it cannot be written; names the file.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(to_utf8(content) if isinstance(content, str) else content)
        sync(partial)
        partial.replace(path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error


def to_utf8(text: str) -> bytes:
    """Encode a text for a file; what is not UTF-8 in the names of this system's files is escaped."""
    try:
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace").encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace")


def sync(path: Path) -> None:
    """Wait until the contents of a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
