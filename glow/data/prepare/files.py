"""Sources whose images are files: a folder, or a zip or tar of a folder."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from glow.data.images.decoding import ImageError
from glow.data.prepare.base import FileSource
from glow.data.read.tars import BoundedHeader


class FolderSource(FileSource):
    """A folder of images, with or without class folders. Symbolic links are followed."""

    def __init__(self, spec: str) -> None:
        def fail(error: OSError) -> None:
            raise error

        members, seen = [], set()
        try:
            for folder, subfolders, files in os.walk(spec, onerror=fail, followlinks=True):
                status = Path(folder).stat()
                real = status.st_dev, status.st_ino
                if real in seen:  # a link to a folder above itself
                    subfolders.clear()
                    continue
                seen.add(real)
                members += [(Path(folder) / file).relative_to(spec).as_posix() for file in files]
        except RecursionError as error:  # of os.walk, before Python 3.12
            raise ValueError(f"{spec}: its folders are nested too deeply") from error
        super().__init__(spec, members)

    def read(self, index: int) -> bytes:
        """Return the content of one file."""
        path = Path(self.spec) / self.paths[index]
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would keep us waiting, and a device may have no end
            raise ImageError(self.location(index), "not a file, but a pipe, a socket or a device")
        self.check_size(index, status.st_size)
        return path.read_bytes()


def check_member(archive: str, member: str) -> None:
    """Raise a ValueError when a member would be unpacked outside of the folder; here nothing is unpacked."""
    path = member.replace("\\", "/")
    if path.startswith("/") or path[1:3] == ":/" or ".." in path.split("/"):
        raise ValueError(f"{archive}: refused: member {member!r} points outside of the archive (path traversal)")


class ZipSource(FileSource):
    """A zip of a folder of images."""

    top = 1

    def __init__(self, spec: str) -> None:
        members = {}
        for info in self._open(spec).infolist():
            check_member(spec, info.filename)
            name = info.filename.replace("\\", "/")  # some programs on Windows write backslashes
            if not name.endswith("/"):
                members[name] = info.filename
        super().__init__(spec, members)
        self.stored = [members[path] for path in self.paths]

    @staticmethod
    def _open(spec: str) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(spec)
        except OSError:
            raise
        except Exception as error:  # zipfile raises errors of many types
            raise ValueError(f"{spec}: damaged zip: {error}") from error

    @cached_property
    def handle(self) -> zipfile.ZipFile:
        """The open archive."""
        return self._open(self.spec)

    def read(self, index: int) -> bytes:
        """Return the content of one file."""
        info = self.handle.getinfo(self.stored[index])
        self.check_size(index, info.file_size)
        return self.handle.read(info)


def tar_members(spec: str, stream: BinaryIO | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an uncompressed tar: the file ``spec``, or a stream which is called so in messages.

    Raises:
        ValueError: when it is damaged, also where Python's tarfile takes a damaged header for the end.
    """
    try:
        with tarfile.open(None if stream else spec, "r:", stream, tarinfo=BoundedHeader) as tar:
            position = -1
            while (member := tar.next()) is not None:
                if member.offset <= position:
                    raise tarfile.TarError("its members run backwards")
                position = member.offset
                yield member
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)  # of the block that no member begins with
            if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.TarError(f"no member begins at byte {tar.offset}")
            while chunk := tar.fileobj.read(2**20):
                if chunk.strip(b"\0"):
                    warnings.warn(f"{spec}: what follows the end mark of this tar is not read", stacklevel=2)
                    return
    except OSError as error:
        if error.errno == errno.EINVAL:  # a header that points out of the file
            raise ValueError(f"{spec}: damaged: a member lies outside of the file") from error
        raise
    except Exception as error:  # tarfile raises errors of many types
        raise ValueError(f"{spec}: not a folder, a zip or a tar of images, or damaged: {error}") from error


class TarSource(FileSource):
    """An uncompressed tar of a folder of images; members are read by their offsets."""

    top = 1

    def __init__(self, spec: str) -> None:
        spans: dict[str, tuple[int, int]] = {}
        for member in tar_members(spec):
            check_member(spec, member.name)
            if member.issym() or member.islnk() or member.issparse():
                raise ValueError(
                    f"{spec}: member {member.name!r} is a link or a sparse file; pack the files themselves "
                    "(tar --dereference --hard-dereference)"
                )
            if member.isreg():
                spans[member.name] = member.offset_data, member.size
        super().__init__(spec, spans)
        self.spans = [spans[path] for path in self.paths]

    @cached_property
    def handle(self) -> mmap.mmap:
        """The memory-mapped archive."""
        with Path(self.spec).open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, index: int) -> bytes:
        """Return the content of one file."""
        offset, size = self.spans[index]
        self.check_size(index, size)
        return self.handle[offset : offset + size]
