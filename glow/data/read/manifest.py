"""The description of a data set: dataset.json."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from glow.config import MAX_PIXELS
from glow.data.read.files import is_remote, join, read_whole
from glow.data.read.pipe import PIPE
from glow.data.read.remote import PROTOCOLS
from glow.files.limits import JSON_BYTES
from glow.files.reading import parse_json
from glow.files.schema import from_plain
from glow.files.writing import write_whole

MANIFEST = "dataset.json"
OPTIONAL = ("location", "index", "decoder", "largest", "short_side")  # left out where they are None
MIN_SAMPLE_BYTES = 1024  # of a tar: a header, and a block of data
MAX_LOCATION_BYTES = 4096


@dataclass(frozen=True)
class Shard:
    """One tar file of samples ``<key>.png`` and, if labelled, ``<key>.cls``; its index lies beside it as ``.idx``.

    In a linked data set, the samples of a split in one tar that lies elsewhere.

    Attributes:
        path: Name of the tar, beside dataset.json. Of a linked one: a name that no other has.
        num_images: Number of images of the split.
        num_bytes: Size of the tar.
        sha256: Checksum of the tar.
        location: Of a linked one: path or URL of the tar.
    """

    path: str
    num_images: int
    num_bytes: int
    sha256: str
    location: str | None = None

    def __post_init__(self) -> None:
        """Check the values: names become parts of paths, URLs and commands, checksums become names of files."""
        if self.location is not None:
            check_location(self.location)
        check_file("shard", self.path, self.sha256)
        if not 1 <= self.num_images * MIN_SAMPLE_BYTES <= self.num_bytes < 2**63:
            raise ValueError(f"{self.path}: {self.num_images} images in {self.num_bytes} bytes are not possible")


@dataclass(frozen=True)
class IndexFile:
    """The file that says where the samples of a split lie.

    Attributes:
        path: Its name, beside dataset.json.
        num_bytes: Its size.
        sha256: Checksum of its head and of its table of digests.
    """

    path: str
    num_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """Check the values."""
        check_file("index", self.path, self.sha256)
        if not 1 <= self.num_bytes < 2**63:
            raise ValueError(f"{self.path}: {self.num_bytes} bytes are not possible")


@dataclass(frozen=True)
class Split:
    """The shards of train, validation or test.

    Attributes:
        num_images: Number of images.
        shards: The shards.
        sha256: The hash of the hashes of the shards, in order; of a linked split, and of that of the index.
        index: The index. None: there is one of text beside each shard alone, as version 0.1.0 wrote it.
    """

    num_images: int
    shards: tuple[Shard, ...]
    sha256: str
    index: IndexFile | None = None

    @staticmethod
    def of(shards: Sequence[Shard], index: IndexFile | None) -> Split:
        """Return the split that consists of ``shards``."""
        hashes = [shard.sha256 for shard in shards]
        if index is not None and any(shard.location is not None for shard in shards):
            hashes.append(index.sha256)
        digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
        return Split(sum(shard.num_images for shard in shards), tuple(shards), digest, index)

    def check(self) -> None:
        """Raise a ValueError when the split is not what its shards make."""
        right = Split.of(self.shards, self.index)
        if self.index is None and any(shard.location is not None for shard in self.shards):
            raise ValueError("linked shards without an index")
        repeated = [path for path, count in Counter(shard.path for shard in self.shards).items() if count > 1]
        if not self.shards:
            raise ValueError("no shards")
        if repeated:
            raise ValueError(f"{repeated[0]} is listed more than once")
        if self.num_images != right.num_images:
            raise ValueError(f"num_images: {self.num_images}, but its shards have {right.num_images}")
        if self.sha256 != right.sha256:
            raise ValueError("sha256: not the hash of the hashes of its shards")


@dataclass(frozen=True)
class Dataset:
    """The content of dataset.json.

    Attributes:
        name: Name of the data set; ``prepare`` takes that of the directory.
        shape: Channels, height, width of every image; where sizes differ, the least height and the least width.
        bit_depth: Bits a channel of the stored images (8).
        classes: Names of the classes, or None without labels. A ``.cls`` file holds an index into this list, as text.
        splits: The splits by name: train, validation, test.
        preparation: The options of ``prepare`` that decide the content.
        left_out: ``{"name", "reason"}`` of every image that could not be used.
        decoder: Of a linked data set: the programs that decoded its images when it was made. None: it is not linked.
        largest: The greatest height and the greatest width, where sizes differ.
        short_side: Of a linked data set whose images keep their aspect ratio: the option of ``prepare``.
    """

    name: str
    shape: tuple[int, int, int]
    bit_depth: int
    classes: tuple[str, ...] | None
    splits: dict[str, Split]
    preparation: dict[str, Any]
    left_out: tuple[dict[str, str], ...] = ()
    decoder: str | None = None
    largest: tuple[int, int] | None = None
    short_side: int | Literal["keep"] | None = None

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        channels, height, width = self.shape
        max_height, max_width = self.largest or (height, width)
        fits = (
            1 <= height <= max_height and 1 <= width <= max_width and max(height * width, max_height, max_width) < 2**31
        )
        if channels not in (1, 3) or height * width > MAX_PIXELS or not fits:
            largest = f", largest: {list(self.largest)}" if self.largest else ""
            raise ValueError(
                f"shape: {list(self.shape)}{largest} is not allowed; 1 or 3 channels, height and width, at most "
                f"{MAX_PIXELS} pixels"
            )
        if self.short_side is not None and (
            self.decoder is None or (self.short_side != "keep" and self.short_side < 1)
        ):
            raise ValueError(f"short_side: {self.short_side} is not allowed; 1 or more, of a linked data set")
        if self.bit_depth != 8:
            raise ValueError(f"bit_depth: {self.bit_depth} is not allowed; 8 is the only one")
        if self.classes is not None and not self.classes:
            raise ValueError("classes: empty; null means no labels")
        for name, split in self.splits.items():
            for shard in split.shards:
                if (shard.location is None) != (self.decoder is None):
                    raise ValueError(f"splits.{name}: {shard.path} and decoder: a data set is linked as a whole or not")

    def window(self, size: int | None) -> tuple[int, int, int]:
        """Return the shape of the images from which windows of ``size`` x ``size`` pixels are cut; None: none are cut.

        Raises:
            ValueError: when the images are smaller, or of several sizes and not cut.
        """
        channels, height, width = self.shape
        most = min(height, width)
        found = f"images of {self.name} are {height} x {width}"
        if self.largest:
            found += f" to {self.largest[0]} x {self.largest[1]}"
        if size is None and self.largest is not None:
            raise ValueError(f"data.size: the {found} (height x width); give it the size of windows, {most} or less")
        if size is not None and size > most:
            advice = f"give {most} or less, or prepare with a larger --short_side or --size"
            raise ValueError(f"data.size: {size}, but the {found} (height x width); {advice}")
        return self.shape if size is None else (channels, size, size)

    @property
    def form(self) -> str | None:
        """What linked images are brought to when they are read, as text; None: they are not linked."""
        return None if self.decoder is None else form_text(self.shape, self.largest, self.short_side)

    def split(self, name: str) -> Split:
        """Return one split.

        Raises:
            ValueError: when there is no such split.
        """
        if name not in self.splits:
            raise ValueError(f"data set {self.name} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]


def check_file(kind: str, path: str, sha256: str) -> None:
    """Raise a ValueError unless a path is the plain name of a file, and a checksum is one."""
    if not re.fullmatch(r"\w[\w.-]{0,250}", path):
        raise ValueError(f"{kind} path {path[:80]!r} is not the plain name of a file beside it")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"{path}: {sha256[:80]!r} is not a sha256")


def check_location(location: str) -> None:
    """Raise a ValueError unless a location is a path or a URL of a known protocol; a stranger may have written it."""
    protocol, separator, _ = location.partition("://")
    is_plain = location.isprintable() and 0 < len(location.encode()) <= MAX_LOCATION_BYTES
    if not is_plain or location.startswith(PIPE) or "::" in location or (separator and protocol not in PROTOCOLS):
        known = ", ".join(f"{name}://" for name in PROTOCOLS)
        raise ValueError(f"location {location[:80]!r} is not allowed: a path, or one of {known}")


def write_manifest(directory: Path, dataset: Dataset) -> None:
    """Write dataset.json, onto the disk."""
    content = asdict(dataset, dict_factory=_without_optional)
    write_whole(directory / MANIFEST, json.dumps(content, indent=1) + "\n")


def _without_optional(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in items if value is not None or key not in OPTIONAL}


def form_text(
    shape: tuple[int, int, int], largest: tuple[int, int] | None, short_side: int | Literal["keep"] | None
) -> str:
    """Return as text to what linked images are brought when they are read."""
    return f"shape {list(shape)}" + (f", short_side {short_side}, largest {largest}" if short_side is not None else "")


def size_range(sizes: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Return the least height and width of some sizes, and the greatest if they are others."""
    heights, widths = zip(*sizes, strict=True)
    least, largest = (min(heights), min(widths)), (max(heights), max(widths))
    return least, None if least == largest else largest


def load_dataset(directory: str | Path) -> Dataset:
    """Read dataset.json from a directory or a URL.

    Raises:
        ValueError: when the file is missing or damaged.
    """
    path = join(directory, MANIFEST)
    if not is_remote(path) and Path(directory).is_file():
        advice = "make one of it with glow prepare --source, or give the directory of a data set"
        raise ValueError(f"{directory}: a file, not the directory of a data set; {advice}")
    try:
        content = read_whole(path, JSON_BYTES)
    except OSError as error:
        advice = "make one with glow prepare"
        if not is_remote(path) and not Path(directory).exists():
            raise ValueError(f"{directory}: no such folder; give that of a data set, or {advice}") from error
        if not is_remote(path) and any(Path(directory).glob("*.tar")):
            command = f"glow prepare --link true --source {directory} --size SIZE --output {directory}"
            advice = f"{command} makes one of its shards"
        raise ValueError(f"{directory}: not a data set (no {MANIFEST}); {advice}") from error
    raw = parse_json(content, path)
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: not a readable {MANIFEST}: no mapping of keys to values")
    # Other keys are ignored: they may be notes.
    known = {field.name: raw[field.name] for field in fields(Dataset) if field.name in raw}
    try:
        dataset = from_plain(Dataset, known)
        for name, split in dataset.splits.items():
            try:
                split.check()
            except ValueError as error:
                raise ValueError(f"splits.{name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: not a readable {MANIFEST}: {error}") from error
    return dataset
