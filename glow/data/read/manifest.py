"""The description of a data set: dataset.json, and an index beside each shard with the places of its samples."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glow.data.read.files import join, read_part

MANIFEST = "dataset.json"
INDEX_VERSION = "v1.2"


@dataclass(frozen=True)
class Shard:
    """One tar file of samples ``<key>.png`` and, if labelled, ``<key>.cls``; its index lies beside it as ``.idx``."""

    path: str
    num_images: int
    num_bytes: int
    sha256: str


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
    """Write dataset.json."""
    text = json.dumps(asdict(dataset), indent=1) + "\n"
    (directory / MANIFEST).write_text(text, encoding="utf-8")


def load_dataset(directory: str | Path) -> Dataset:
    """Read dataset.json from a directory or a URL.

    Raises:
        ValueError: when the file is missing or damaged.
    """
    path = join(directory, MANIFEST)
    try:
        content, _ = read_part(path)
    except OSError as error:
        advice = "make one with glow prepare"
        raise ValueError(f"{directory}: not a data set (no {MANIFEST}); {advice}") from error
    try:
        raw = json.loads(content)
        splits = {
            name: Split(split["num_images"], tuple(Shard(**shard) for shard in split["shards"]), split["sha256"])
            for name, split in raw["splits"].items()
        }
        channels, height, width = raw["shape"]
        dataset = Dataset(
            name=raw["name"],
            shape=(channels, height, width),
            bit_depth=raw["bit_depth"],
            classes=None if raw["classes"] is None else tuple(raw["classes"]),
            splits=splits,
            preparation=raw["preparation"],
            left_out=tuple(raw["left_out"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a readable {MANIFEST}: {error!r}") from error
    for split in dataset.splits.values():
        for shard in split.shards:
            # The file may be a stranger's. Names become parts of paths, URLs and commands; checksums become file names.
            if not re.fullmatch(r"\w[\w.-]*", shard.path):
                raise ValueError(f"{path}: shard path {shard.path!r} is not the plain name of a file beside it")
            if not re.fullmatch("[0-9a-f]{64}", shard.sha256):
                raise ValueError(f"{path}: {shard.path}: {shard.sha256!r} is not a sha256")
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
        content, _ = read_part(str(path))
    except OSError as error:
        raise ValueError(f"{path}: the index of this shard is missing; prepare the data set again") from error
    header, *lines = content.decode(errors="replace").splitlines() or [""]
    if header.split() != [INDEX_VERSION, str(len(lines))]:
        raise ValueError(f"{path}: damaged index: {len(lines)} samples after the header {header!r}")
    keys, spans = [], np.zeros((len(lines), 4), dtype=np.int64)
    for row, line in enumerate(lines):
        words = line.split(" ")
        members = {words[i]: words[i + 1 : i + 4] for i in range(0, len(words), 4)}
        try:
            offset, size, name = members["png"]
            label_offset, label_size, _ = members.get("cls", ("0", "0", ""))
            spans[row] = int(offset), int(size), int(label_offset), int(label_size)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: damaged index, or a sample without a PNG, at line {row + 2}") from error
        keys.append(name.removesuffix(".png").encode())
    return SampleIndex(np.array(keys), spans)
