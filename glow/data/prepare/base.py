"""What every source of images offers: a list of images with names and labels, read one at a time."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from glow.data.prepare.decoding import ImageError, decode, image_errors

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
)
# More than the largest image that Pillow's pixel limit lets through takes when it is not compressed at all.
MAX_FILE_BYTES = 512 * 2**20


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
