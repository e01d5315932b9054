"""Open images by the text that a user types: a split of a data set, or a source, which is prepared first."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glow.config import PrepareRun
from glow.data.prepare.writer import prepare
from glow.data.read.files import is_remote, join
from glow.data.read.manifest import MANIFEST
from glow.data.read.pipe import PIPE
from glow.data.read.reader import SplitReader


@dataclass(frozen=True)
class Place:
    """The place of images: a prepared data set and one of its splits, or a source of ``prepare`` (split None)."""

    location: str
    split: str | None

    @staticmethod
    def parse(text: str, default_split: str) -> Place:
        """Parse ``DATA[:SPLIT]``.

        Raises:
            ValueError: when there is a split, and the location is not a prepared data set.
        """
        location, colon, split = text.rpartition(":")
        if not (colon and re.fullmatch(r"\w+", split)) or text.startswith((PIPE, "torchvision:")):
            location, split = text, ""
        return Place.of(location, split or None, default_split)

    @staticmethod
    def of(location: str, split: str | None, default_split: str) -> Place:
        """Return the place of a location and a split; None: the default split, if it is a data set.

        Raises:
            ValueError: when there is a split, and the location is not a prepared data set.
        """
        location = location.rstrip("/") or location
        if is_remote(location) or Path(join(location, MANIFEST)).is_file():
            return Place(location, split or default_split)
        if split is not None:
            raise ValueError(f"{location}: not a data set (no {MANIFEST}), so it has no split {split!r}")
        return Place(location, None)

    @property
    def name(self) -> str:
        """The last part of the location: the name of the folder or archive."""
        return Path(self.location).resolve().name

    def __str__(self) -> str:
        return self.location if self.split is None else f"{self.location}:{self.split}"


@contextlib.contextmanager
def open_images(
    place: Place,
    size: int | tuple[int, int] | None,
    color: Literal["keep", "rgb", "grey"],
    window: int | None = None,
) -> Iterator[SplitReader]:
    """Open the images of a place. Those of a source are prepared in a temporary folder, which is removed at the end.

    Args:
        place: The place.
        size: The option ``size`` of ``prepare``, for a source.
        color: The option ``color`` of ``prepare``, for a source.
        window: Height and width of the windows that are cut out of the images of a data set.

    Raises:
        ValueError: when there are no images, or ``prepare`` cannot use one of them.
    """
    if place.split is not None:
        yield SplitReader(place.location, place.split, size=window)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder) / "data")
        prepare(PrepareRun([place.location], data, size=size, color=color, num_workers=0))
        yield SplitReader(data, "train")
