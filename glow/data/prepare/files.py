"""Sources whose images are files: a folder, or a zip or tar of a folder."""

from __future__ import annotations

import mmap
import os
import tarfile
import zipfile
from functools import cached_property
from pathlib import Path

from glow.data.prepare.base import FileSource


class FolderSource(FileSource):
    """A folder of images, with or without class folders. Symbolic links are followed."""

    def __init__(self, spec: str) -> None:
        def fail(error: OSError) -> None:
            raise error

        members, seen = [], set()
        for folder, subfolders, files in os.walk(spec, onerror=fail, followlinks=True):
            real = Path(folder).resolve()
            if real in seen:  # a link to a folder above itself
                subfolders.clear()
                continue
            seen.add(real)
            members += [(Path(folder) / file).relative_to(spec).as_posix() for file in files]
        super().__init__(spec, members)

    def read(self, index: int) -> bytes:
        """Return the content of one file."""
        path = Path(self.spec) / self.paths[index]
        self.check_size(index, path.stat().st_size)
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
        members = [info.filename for info in self._open(spec).infolist() if not info.is_dir()]
        for member in members:
            check_member(spec, member)
        super().__init__(spec, members)

    @staticmethod
    def _open(spec: str) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(spec)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{spec}: damaged zip: {error}") from error

    @cached_property
    def handle(self) -> zipfile.ZipFile:
        """The open archive."""
        return self._open(self.spec)

    def read(self, index: int) -> bytes:
        """Return the content of one file."""
        info = self.handle.getinfo(self.paths[index])
        self.check_size(index, info.file_size)
        return self.handle.read(info)


class TarSource(FileSource):
    """An uncompressed tar of a folder of images; members are read by their offsets."""

    top = 1

    def __init__(self, spec: str) -> None:
        spans: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(spec, "r:") as tar:
                for member in tar:
                    check_member(spec, member.name)
                    if member.issym() or member.islnk() or member.issparse():
                        raise ValueError(
                            f"{spec}: member {member.name!r} is a link or a sparse file; pack the files themselves "
                            "(tar --dereference --hard-dereference)"
                        )
                    if member.isreg():
                        spans[member.name] = member.offset_data, member.size
        except tarfile.TarError as error:
            raise ValueError(f"{spec}: not a folder, a zip or a tar of images, or damaged: {error}") from error
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
