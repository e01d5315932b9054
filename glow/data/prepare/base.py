"""The interface of all sources of images: a list of images with names and labels."""

from __future__ import annotations

import abc
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from glow.data.images.decoding import EXTENSIONS, ImageError, decode, image_errors
from glow.files.limits import SAMPLE_BYTES

NUM_KINDS = 6  # that a message shows


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
    paths = [(member, PurePosixPath(member)) for member in sorted(set(members))]
    images = [(member, path.parts) for member, path in paths if is_image(path) and not is_hidden(path)]
    all_parts = [parts for _, parts in images]
    if images:
        ends = zip(min(all_parts), max(all_parts), strict=False)  # what they share, all share
        num_shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
        num_dropped = max(0, min(num_shared, min(map(len, all_parts)) - top))
        images = [(member, parts[num_dropped:]) for member, parts in images]
    loose = [member for member, parts in images if len(parts) == 1]
    if loose and len(loose) < len(images):
        raise ValueError(
            f"{spec}: some images lie in class folders, but {loose[0]} does not; move all into class folders (labels) "
            "or all into one folder (no labels)"
        )
    labels = None if loose else [parts[0] for _, parts in images]
    return [member for member, _ in images], ["/".join(parts) for _, parts in images], labels


def is_image(path: PurePosixPath) -> bool:
    """Return whether a file has the extension of an image that ``prepare`` reads."""
    return path.suffix.lower() in EXTENSIONS


def is_hidden(path: PurePosixPath) -> bool:
    """Return whether a file or a folder above it is hidden."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def describe_unread(members: Iterable[str]) -> str:
    """Return the numbers of the files that are not read, by kind, as ``20 .heic, 1 .avif``; empty if there are none.

    Hidden files count if they are images, except those that macOS writes beside others.
    """
    kinds: Counter[str] = Counter()
    for path in map(PurePosixPath, set(members)):
        if is_hidden(path):
            of_macos = "__MACOSX" in path.parts or path.name.startswith("._")
            kinds["hidden images"] += is_image(path) and not of_macos
        elif not is_image(path):
            kinds[path.suffix.lower() if re.fullmatch(r"\.\w{1,8}", path.suffix) else "others"] += 1
    common = sorted((+kinds).items(), key=lambda item: (-item[1], item[0]))
    num_more = sum(count for _, count in common[NUM_KINDS:])
    shown = [f"{count} {kind}" for kind, count in common[:NUM_KINDS]]
    return ", ".join(shown + [f"{num_more} more"] * (num_more > 0))


class FileSource(Source):
    """A source whose images are files; a subclass implements ``read``."""

    # A folder with one folder of images has one class. An archive with one folder of images has no classes (top = 1).
    top = 2

    def __init__(self, spec: str, members: Iterable[str]) -> None:
        members = list(members)
        paths, names, labels = arrange(spec, members, self.top)
        unread = describe_unread(members)
        if not paths and unread:
            raise ValueError(f"{spec}: holds no images ({' '.join(sorted(EXTENSIONS))}), but {unread}")
        super().__init__(spec, paths, names, labels)
        if unread:
            warnings.warn(
                f"{spec}: beside {len(paths)} images, these files are not read: {unread}; convert images of other "
                "kinds first; labels are taken from the names of class folders",
                stacklevel=2,
            )

    @abc.abstractmethod
    def read(self, index: int) -> bytes:
        """Return the content of one file."""

    def load(self, index: int) -> Image.Image:
        """Read and decode one file."""
        with image_errors(self.location(index)):
            return decode(self.location(index), self.read(index))

    def check_size(self, index: int, num_bytes: int) -> None:
        """Raise an ImageError when a file is too large for an image; call it before reading."""
        check_image_size(self.location(index), num_bytes)


def check_image_size(name: str, num_bytes: int) -> None:
    """Raise an ImageError when a file is too large for an image; call it before reading."""
    limit = SAMPLE_BYTES.value
    if num_bytes > limit:
        raise ImageError(
            name, f"has {num_bytes} bytes uncompressed; at most {limit} are read (set by {SAMPLE_BYTES.variable})"
        )
