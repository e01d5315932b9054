"""The index of a shard: the places of its samples, in the text format of NVIDIA DALI's ``wds2idx``."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

import numpy as np

from glow.data.read.files import read_whole
from glow.files.limits import INDEX_BYTES, SAMPLE_BYTES

INDEX_VERSION = "v1.2"
MAX_KEY_BYTES = 255
MAX_NAME_BYTES = 4096
LINK = "sample"  # in place of an extension: label, checksum and key of a linked sample


@dataclass(frozen=True)
class LinkedSamples:
    """What an index knows of samples that others wrote.

    Attributes:
        names: Their names in the tar, ``[n]``.
        labels: The texts of their labels, ``[n]``; empty: no label.
        checksums: CRC-32 of their files, ``[n]``.
    """

    names: list[bytes]
    labels: list[bytes]
    checksums: np.ndarray


@dataclass(frozen=True)
class SampleIndex:
    """The places of the samples in one shard.

    Attributes:
        keys: The keys of the samples, UTF-8, ``[n]``.
        spans: Offset and size in bytes of the PNG and of the label, ``[n, 4]``; a label size of 0 means no label.
        linked: Of linked samples; None of others.
    """

    keys: np.ndarray
    spans: np.ndarray
    linked: LinkedSamples | None = None


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


class LinkedRow(NamedTuple):
    """A linked sample: its key, the name, offset and size of its file in the tar, its class or None, its CRC-32."""

    key: str
    name: str
    offset: int
    size: int
    label: int | None
    checksum: int


def write_linked_index(path: Path, rows: Sequence[LinkedRow]) -> bytes:
    """Write the index of linked samples; return its content."""
    lines = []
    for row in rows:
        name = quote(row.name, errors="surrogateescape")
        label = "-" if row.label is None else row.label
        lines.append(f"image {row.offset} {row.size} {name} {LINK} {label} {row.checksum} {row.key}")
    content = ("\n".join([f"{INDEX_VERSION} {len(lines)}", *lines]) + "\n").encode()
    path.write_bytes(content)
    return content


def index_digest(shape: Sequence[int], content: bytes) -> str:
    """Return the checksum of the index of linked samples, and of the shape in which their images are read."""
    return hashlib.sha256(f"{list(shape)}\n".encode() + content).hexdigest()


def read_index(path: str | Path) -> SampleIndex:
    """Read the index of a shard from a path or a URL.

    Raises:
        ValueError: when it is missing or damaged, or a sample has no PNG.
    """
    content = _content(path)
    num_lines = _check_header(path, content)
    keys, spans = [], np.zeros((num_lines, 4), dtype=np.int64)
    for row, line in enumerate(_lines(content)):
        try:
            key, spans[row] = _parse_sample(line.decode().rstrip("\r\n"))
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}: damaged index, or a sample without a PNG, at line {row + 2}") from error
        keys.append(key)
    _check_spans(path, spans)
    return SampleIndex(np.array(keys), spans)


def read_linked_index(path: str | Path, shape: Sequence[int], digest: str) -> SampleIndex:
    """Read the index of linked samples from a path or a URL.

    Args:
        path: The index.
        shape: The shape of the images.
        digest: The checksum of both.

    Raises:
        ValueError: when it is missing, or has another checksum.
    """
    content = _content(path)
    if index_digest(shape, content) != digest:
        raise ValueError(f"{path}: damaged or changed: its sha256 is not the one in dataset.json")
    num_lines = _check_header(path, content)
    keys, names, labels = [], [], []
    spans, checksums = np.zeros((num_lines, 4), dtype=np.int64), np.zeros(num_lines, dtype=np.int64)
    for row, line in enumerate(_lines(content)):
        match = LINKED_LINE.fullmatch(line.rstrip(b"\n"))
        if match is None or len(match["name"]) > MAX_NAME_BYTES:
            raise ValueError(f"{path}: damaged index at line {row + 2}")
        spans[row, :2] = int(match["offset"]), int(match["size"])
        checksums[row] = int(match["checksum"])
        keys.append(match["key"])
        names.append(unquote_to_bytes(match["name"]))
        labels.append(match["label"].replace(b"-", b""))
    _check_spans(path, spans)
    return SampleIndex(np.array(keys), spans, LinkedSamples(names, labels, checksums))


LINKED_LINE = re.compile(
    rb"image (?P<offset>\d{1,18}) (?P<size>\d{1,18}) (?P<name>[\w%./~-]+) sample (?P<label>-|\d{1,9}) "
    rb"(?P<checksum>\d{1,10}) (?P<key>[\w-]{1,255})"
)


def _content(path: str | Path) -> bytes:
    try:
        return read_whole(str(path), INDEX_BYTES)
    except OSError as error:
        raise ValueError(f"{path}: the index of this shard is missing; prepare the data set again") from error


def _check_header(path: str | Path, content: bytes) -> int:
    """Return the number of samples; raise a ValueError when the header says another."""
    header, *_ = content.split(b"\n", 1)
    # Counted before memory is taken. The last line may lack its end.
    num_lines = content.count(b"\n") + (not content.endswith(b"\n")) - 1
    if header.split() != f"{INDEX_VERSION} {num_lines}".encode().split():
        raise ValueError(f"{path}: damaged index: {num_lines} samples after the header {header[:80]!r}")
    return num_lines


def _lines(content: bytes) -> io.BytesIO:
    """Return the lines after the header."""
    lines = io.BytesIO(content)
    next(lines)
    return lines


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
