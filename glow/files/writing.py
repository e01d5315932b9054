"""Files that appear when they are whole, and survive a crash of the machine."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place, and rename it when it is on the disk; texts in UTF-8.

    Raises:
        OSError: when it cannot be written; names the file.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, str | bytes]) -> None:
    """Write files that belong together as ``write_whole`` does; the last one vouches for the others.

    Earlier files stay until all new ones are on the disk. Then the earlier last one goes first, and the new one comes
    last: where it is, all files are of one time.

    Raises:
        OSError: when one cannot be written; names the file. The earlier files are as they were.
    """
    partials = {path: path.with_name(f"{path.name}.partial") for path in contents}
    last = [*contents][-1]
    path = last
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partials[path].write_bytes(to_utf8(content) if isinstance(content, str) else content)
            sync(partials[path])
        if len(contents) > 1:
            path = last
            last.unlink(missing_ok=True)
        for path, partial in partials.items():
            partial.replace(path)
    except OSError as error:
        for partial in partials.values():
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error


def to_utf8(text: str) -> bytes:
    """Encode a text for a file; what is not UTF-8 in the names of this system's files is escaped."""
    try:
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace").encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace")


def sync(path: Path) -> None:
    """Wait until the contents of a file, or the names in a directory, are on the disk.

    Some file systems cannot wait for a directory: then its names come to the disk some time later.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
