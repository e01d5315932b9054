"""Where images come from: a folder, zip or tar, torchvision, or scikit-learn's digits, behind one interface."""

from __future__ import annotations

import abc
import mmap
import os
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from glow.data.decoding import ImageError, decode, image_errors

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
)
# More than the largest image that Pillow's pixel limit lets through takes when it is not compressed at all.
MAX_FILE_BYTES = 512 * 2**20
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Source(abc.ABC):
    """A list of images. It can be pickled: what it opened is opened again by the process that needs it.

    Attributes:
        spec: What the user asked for.
        paths: Where each image lies within the source, sorted.
        names: The same without a common top folder; sample keys are made of them.
        labels: Name of the class of each image, or None.
    """

    def __init__(self, spec: str, paths: Sequence[str], names: Sequence[str], labels: Sequence[str] | None) -> None:
        if not paths:
            raise ValueError(f"{spec}: holds no images ({' '.join(sorted(EXTENSIONS))})")
        self.spec, self.paths, self.names, self.labels = spec, paths, names, labels

    def location(self, index: int) -> str:
        """Say to a user which image this is."""
        return f"{self.spec}/{self.paths[index]}"

    @abc.abstractmethod
    def load(self, index: int) -> Image.Image:
        """Decode one image, whatever its size, in one of MODES.

        Raises:
            ImageError: when it cannot be read.
        """

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "handle"}


def arrange(spec: str, members: Iterable[str], top: int) -> tuple[list[str], list[str], list[str] | None]:
    """Return the images among paths with forward slashes, sorted, their names, and their class names or None.

    Folders that all images share are no part of a name while ``top`` more parts follow. Then the images lie either all
    in folders, which are their classes, or all beside each other, without classes.

    Raises:
        ValueError: when some lie in folders and some do not.
    """
    images = []
    for member in sorted(set(members)):
        parts = PurePosixPath(member).parts
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
        if not hidden and PurePosixPath(member).suffix.lower() in EXTENSIONS:
            images.append((member, parts))
    while images and len({parts[0] for _, parts in images}) == 1 and min(len(parts) for _, parts in images) > top:
        images = [(member, parts[1:]) for member, parts in images]
    loose = [member for member, parts in images if len(parts) == 1]
    if loose and len(loose) < len(images):
        raise ValueError(
            f"{spec}: some images lie in class folders, but {loose[0]} does not; move all into class folders (labels) "
            "or all into one folder (no labels)"
        )
    labels = None if loose else [parts[0] for _, parts in images]
    return [member for member, _ in images], ["/".join(parts) for _, parts in images], labels


class FileSource(Source):
    """Images that are files; the kinds differ in how they read one."""

    # A folder that holds one folder of images has one class; an archive that does is one of a folder of images.
    top = 2

    def __init__(self, spec: str, members: Iterable[str]) -> None:
        super().__init__(spec, *arrange(spec, members, self.top))

    @abc.abstractmethod
    def read(self, index: int) -> bytes:
        """Return the content of one file."""

    def load(self, index: int) -> Image.Image:
        """Read and decode one file."""
        with image_errors(self.location(index)):
            return decode(self.location(index), self.read(index))

    def check_size(self, index: int, num_bytes: int) -> None:
        """Refuse a file that is too large to be an image, before it is read."""
        if num_bytes > MAX_FILE_BYTES:
            raise ImageError(
                self.location(index), f"has {num_bytes} bytes uncompressed; at most {MAX_FILE_BYTES} are read"
            )


class FolderSource(FileSource):
    """A folder of images, with class folders or without. Links are followed."""

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
    """Refuse an archive that would write outside of the folder it is unpacked in, although nothing is unpacked here."""
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
        """Unpack one file into memory."""
        info = self.handle.getinfo(self.paths[index])
        self.check_size(index, info.file_size)
        return self.handle.read(info)


class TarSource(FileSource):
    """An uncompressed tar of a folder of images, read by the offsets of its members."""

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
        """The bytes of the archive."""
        with Path(self.spec).open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, index: int) -> bytes:
        """Return the content of one file."""
        offset, size = self.spans[index]
        self.check_size(index, size)
        return self.handle[offset : offset + size]


class DigitsSource(Source):
    """scikit-learn's 1,797 handwritten digits, 8 x 8, with 17 grey values 0..16 stored as min(16 * value, 255)."""

    def __init__(self, spec: str = "digits") -> None:
        try:
            from sklearn.datasets import load_digits  # an optional dependency
        except ImportError as error:
            raise ValueError(f"{spec}: this source needs scikit-learn: pip install 'glow[demo]'") from error
        digits = load_digits()
        self.images = np.minimum(16 * digits.images, 255).astype(np.uint8)
        names = [f"digits/{index:04d}" for index in range(len(self.images))]
        super().__init__(spec, names, names, [str(label) for label in digits.target])

    def load(self, index: int) -> Image.Image:
        """Return one digit."""
        return Image.fromarray(self.images[index])


def open_source(spec: str, torchvision_root: str = "data/torchvision", download: bool = False) -> Source:
    """Open a folder, a zip, a tar, ``torchvision:NAME[:SPLIT]`` or ``digits``.

    Raises:
        ValueError: when there is no such source, or it cannot be read.
    """
    if spec == "digits":
        return DigitsSource()
    if spec.startswith("torchvision:"):
        from glow.data.torchvision_source import TorchvisionSource  # imports this module

        return TorchvisionSource(spec, torchvision_root, download)
    path = Path(spec)
    if path.is_dir():
        return FolderSource(spec)
    if not path.is_file():
        raise ValueError(f"{spec}: no such folder, zip or tar (other sources: torchvision:NAME[:SPLIT], digits)")
    with path.open("rb") as stream:
        head = stream.read(8)
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            raise ValueError(
                f"{spec}: compressed with {name}, which allows no random access; decompress it to a plain tar"
            )
    return ZipSource(spec) if head.startswith(b"PK") else TarSource(spec)
