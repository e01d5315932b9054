"""The interface of all sources of images: a list of images with names and labels."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from glow.data.prepare.decoding import ImageError, decode, image_errors
from glow.files.limits import SAMPLE_BYTES

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
)


class Source(abc.ABC):
    """A list of images. It can be pickled; each process opens files and archives for itself.

    Attributes:
        spec: The text that the user typed.
        paths: The path of each image within the source, sorted.
        names: The paths without a common top folder; sample keys are made from them.
        labels: The class name of each image, or None without labels.

    Raises:
        ValueError: when there are no images.
    """

    def __init__(self, spec: str, paths: Sequence[str], names: Sequence[str], labels: Sequence[str] | None) -> None:
        if not paths:
            raise ValueError(f"{spec}: holds no images ({' '.join(sorted(EXTENSIONS))})")
        self.spec, self.paths, self.names, self.labels = spec, paths, names, labels

    def location(self, index: int) -> str:
        """Return the name of an image for messages."""
        return f"{self.spec}/{self.paths[index]}"

    @abc.abstractmethod
    def load(self, index: int) -> Image.Image:
        """Decode one image, of any size, in one of MODES.

        Raises:
            ImageError: when the image cannot be read.
        """

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "handle"}


def arrange(spec: str, members: Iterable[str], top: int) -> tuple[list[str], list[str], list[str] | None]:
    """Select the images among paths; return the sorted paths, their names, and their class names or None.

    A name is the path without the folders that all images share, but it keeps at least ``top`` parts. Then either all
    names have a folder, which is the class, or none has.

    Args:
        spec: The source, for messages.
        members: Paths with forward slashes.
        top: The least number of parts of a name.

    Raises:
        ValueError: when some images lie in class folders and some do not.
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
    """A source whose images are files; a subclass implements ``read``."""

    # A folder with one folder of images has one class. An archive with one folder of images has no classes (top = 1).
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
        """Raise an ImageError when a file is too large for an image; call it before reading."""
        limit = SAMPLE_BYTES.value
        if num_bytes > limit:
            raise ImageError(
                self.location(index),
                f"has {num_bytes} bytes uncompressed; at most {limit} are read (set by {SAMPLE_BYTES.variable})",
            )
