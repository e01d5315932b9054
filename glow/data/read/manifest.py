"""The description of a data set: dataset.json."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from glow.config import MAX_PIXELS
from glow.data.read.files import is_remote, join, read_whole
from glow.data.read.pipe import PIPE
from glow.data.read.remote import PROTOCOLS
from glow.files.limits import JSON_BYTES
from glow.files.reading import parse_json
from glow.files.schema import from_plain
from glow.files.writing import write_whole

MANIFEST = "dataset.json"
LINKED = ("location", "index_sha256", "decoder")
MIN_SAMPLE_BYTES = 1024  # of a tar: a header, and a block of data
MAX_LOCATION_BYTES = 4096


@dataclass(frozen=True)
class Shard:
    """One tar file of samples ``<key>.png`` and, if labelled, ``<key>.cls``; its index lies beside it as ``.idx``.

    In a linked data set, the samples of a split in one tar that lies elsewhere.

    Attributes:
        path: Name of the tar, beside dataset.json. Of a linked one: name of the index.
        num_images: Number of images of the split.
        num_bytes: Size of the tar.
        sha256: Checksum of the tar.
        location: Of a linked one: path or URL of the tar.
        index_sha256: Of a linked one: checksum of the shape of the images and of the index.
    """

    path: str
    num_images: int
    num_bytes: int
    sha256: str
    location: str | None = None
    index_sha256: str | None = None

    def __post_init__(self) -> None:
        """Check the values: names become parts of paths, URLs and commands, checksums become names of files."""
        if (self.location is None) != (self.index_sha256 is None):
            raise ValueError(f"{self.path[:80]}: location and index_sha256 belong together")
        if self.location is not None:
            check_location(self.location)
        if not re.fullmatch(r"\w[\w.-]{0,250}", self.path):
            raise ValueError(f"shard path {self.path[:80]!r} is not the plain name of a file beside it")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.path}: {self.sha256[:80]!r} is not a sha256")
        if not 1 <= self.num_images * MIN_SAMPLE_BYTES <= self.num_bytes < 2**63:
            raise ValueError(f"{self.path}: {self.num_images} images in {self.num_bytes} bytes are not possible")


@dataclass(frozen=True)
class Split:
    """The shards of train, validation or test; sha256 is the hash of the shards' hashes, in order."""

    num_images: int
    shards: tuple[Shard, ...]
    sha256: str

    @staticmethod
    def of(shards: Sequence[Shard]) -> Split:
        """Return the split that consists of ``shards``."""
        hashes = (f"{shard.sha256}{shard.index_sha256 or ''}" for shard in shards)
        digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
        return Split(sum(shard.num_images for shard in shards), tuple(shards), digest)

    def check(self) -> None:
        """Raise a ValueError when the split is not what its shards make."""
        right = Split.of(self.shards)
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
        shape: Channels, height, width of every image.
        bit_depth: Bits a channel of the stored images (8).
        classes: Names of the classes, or None without labels. A ``.cls`` file holds an index into this list, as text.
        splits: The splits by name: train, validation, test.
        preparation: The options of ``prepare`` that decide the content.
        left_out: ``{"name", "reason"}`` of every image that could not be used.
        decoder: Of a linked data set: the programs that decoded its images when it was made. None: it is not linked.
    """

    name: str
    shape: tuple[int, int, int]
    bit_depth: int
    classes: tuple[str, ...] | None
    splits: dict[str, Split]
    preparation: dict[str, Any]
    left_out: tuple[dict[str, str], ...] = ()
    decoder: str | None = None

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        channels, height, width = self.shape
        if channels not in (1, 3) or min(height, width) < 1 or height * width > MAX_PIXELS:
            raise ValueError(
                f"shape: {list(self.shape)} is not allowed; 1 or 3 channels, height and width, at most {MAX_PIXELS} "
                "pixels"
            )
        if self.bit_depth != 8:
            raise ValueError(f"bit_depth: {self.bit_depth} is not allowed; 8 is the only one")
        if self.classes is not None and not self.classes:
            raise ValueError("classes: empty; null means no labels")
        for name, split in self.splits.items():
            for shard in split.shards:
                if (shard.location is None) != (self.decoder is None):
                    raise ValueError(f"splits.{name}: {shard.path} and decoder: a data set is linked as a whole or not")

    def split(self, name: str) -> Split:
        """Return one split.

        Raises:
            ValueError: when there is no such split.
        """
        if name not in self.splits:
            raise ValueError(f"data set {self.name} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]


def check_location(location: str) -> None:
    """Raise a ValueError unless a location is a path or a URL of a known protocol; a stranger may have written it."""
    protocol, separator, _ = location.partition("://")
    is_plain = location.isprintable() and 0 < len(location.encode()) <= MAX_LOCATION_BYTES
    if not is_plain or location.startswith(PIPE) or "::" in location or (separator and protocol not in PROTOCOLS):
        known = ", ".join(f"{name}://" for name in PROTOCOLS)
        raise ValueError(f"location {location[:80]!r} is not allowed: a path, or one of {known}")


def write_manifest(directory: Path, dataset: Dataset) -> None:
    """Write dataset.json, onto the disk."""
    content = asdict(dataset, dict_factory=_without_links)
    write_whole(directory / MANIFEST, json.dumps(content, indent=1) + "\n")


def _without_links(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Leave out what data sets have that are linked alone."""
    return {key: value for key, value in items if value is not None or key not in LINKED}


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
