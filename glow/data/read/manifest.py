"""The description of a data set: dataset.json, and an index beside each shard with the places of its samples."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from glow.config import MAX_PIXELS
from glow.data.read.files import is_remote, join, read_whole
from glow.files.limits import INDEX_BYTES, JSON_BYTES, SAMPLE_BYTES
from glow.files.reading import parse_json
from glow.files.schema import from_plain
from glow.files.writing import write_whole

MANIFEST = "dataset.json"
INDEX_VERSION = "v1.2"
MIN_SAMPLE_BYTES = 1024  # of a tar: a header, and a block of data
MAX_KEY_BYTES = 255


@dataclass(frozen=True)
class Shard:
    """One tar file of samples ``<key>.png`` and, if labelled, ``<key>.cls``; its index lies beside it as ``.idx``."""

    path: str
    num_images: int
    num_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """Check the values: names become parts of paths, URLs and commands, checksums become names of files."""
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
        digest = hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()
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
    """

    name: str
    shape: tuple[int, int, int]
    bit_depth: int
    classes: tuple[str, ...] | None
    splits: dict[str, Split]
    preparation: dict[str, Any]
    left_out: tuple[dict[str, str], ...] = ()

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

    def split(self, name: str) -> Split:
        """Return one split.

        Raises:
            ValueError: when there is no such split.
        """
        if name not in self.splits:
            raise ValueError(f"data set {self.name} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]


@dataclass(frozen=True)
class SampleIndex:
    """The places of the samples in one shard.

    Attributes:
        keys: The keys of the samples, UTF-8, ``[n]``.
        spans: Offset and size in bytes of the PNG and of the label, ``[n, 4]``; a label size of 0 means no label.
    """

    keys: np.ndarray
    spans: np.ndarray


def write_manifest(directory: Path, dataset: Dataset) -> None:
    """Write dataset.json, onto the disk."""
    write_whole(directory / MANIFEST, json.dumps(asdict(dataset), indent=1) + "\n")


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


def index_path(shard: Path) -> Path:
    """Return the path of the index of a shard."""
    return shard.with_suffix(".idx")


def write_index(path: Path, samples: Sequence[Sequence[tuple[str, int, int, str]]]) -> None:
    """Write the index of a shard, in the text format of NVIDIA DALI's ``wds2idx``.

    Args:
        path: The file to write.
        samples: The members of each sample: extension, offset, size in bytes, name in the tar.
    """
    lines = [" ".join(f"{ext} {offset} {size} {name}" for ext, offset, size, name in sample) for sample in samples]
    path.write_text("\n".join([f"{INDEX_VERSION} {len(lines)}", *lines]) + "\n", encoding="utf-8")


def read_index(path: str | Path) -> SampleIndex:
    """Read the index of a shard from a path or a URL.

    Raises:
        ValueError: when it is missing or damaged, or a sample has no PNG.
    """
    try:
        content = read_whole(str(path), INDEX_BYTES)
    except OSError as error:
        raise ValueError(f"{path}: the index of this shard is missing; prepare the data set again") from error
    header, *_ = content.split(b"\n", 1)
    # Counted before memory is taken. The last line may lack its end.
    num_lines = content.count(b"\n") + (not content.endswith(b"\n")) - 1
    if header.split() != f"{INDEX_VERSION} {num_lines}".encode().split():
        raise ValueError(f"{path}: damaged index: {num_lines} samples after the header {header[:80]!r}")
    keys, spans = [], np.zeros((num_lines, 4), dtype=np.int64)
    lines = iter(io.BytesIO(content))
    next(lines)
    for row, line in enumerate(lines):
        try:
            key, spans[row] = _parse_sample(line.decode().rstrip("\r\n"))
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}: damaged index, or a sample without a PNG, at line {row + 2}") from error
        keys.append(key)
    _check_spans(path, spans)
    return SampleIndex(np.array(keys), spans)


def _parse_sample(line: str) -> tuple[bytes, tuple[int, ...]]:
    """Return the key of a sample, and offset and size of the PNG and of the label."""
    words = line.split(" ")
    members = {words[i]: words[i + 1 : i + 4] for i in range(0, len(words), 4)}
    offset, size, name = members["png"]
    label_offset, label_size, _ = members.get("cls", ("0", "0", ""))
    numbers = (offset, size, label_offset, label_size)
    key = name.removesuffix(".png").encode()
    # 18 digits fit into 64 bits.
    if not all(re.fullmatch("[0-9]{1,18}", number) for number in numbers) or not 0 < len(key) <= MAX_KEY_BYTES:
        raise ValueError(line)
    return key, tuple(map(int, numbers))


def _check_spans(path: str | Path, spans: np.ndarray) -> None:
    """Raise a ValueError unless the samples lie one after the other, and none is empty or too large."""
    offsets, sizes = spans[:, [0, 2]], spans[:, [1, 3]]
    SAMPLE_BYTES.check(f"{path}: a sample", int(sizes.max(initial=0)))
    ends = (offsets + sizes).max(axis=1)
    starts = np.where(sizes > 0, offsets, np.iinfo(np.int64).max).min(axis=1)
    wrong = np.flatnonzero((sizes[:, 0] == 0) | (starts < np.concatenate([[0], ends[:-1]])))
    if len(wrong):
        raise ValueError(f"{path}: damaged index: line {wrong[0] + 2} overlaps the line before it, or has an empty PNG")
