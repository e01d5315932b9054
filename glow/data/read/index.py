"""The index of a shard: the places of its samples, in the text format of NVIDIA DALI's ``wds2idx``."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glow.data.read.files import join, read_whole
from glow.data.read.manifest import Shard
from glow.data.read.places import TextPlace
from glow.files.limits import INDEX_BYTES, SAMPLE_BYTES

INDEX_VERSION = "v1.2"
MAX_KEY_BYTES = 255


@dataclass(frozen=True)
class SampleIndex:
    """The places of the samples in one shard.

    Attributes:
        keys: The keys of the samples, UTF-8, ``[n]``.
        spans: Offset and size in bytes of the PNG and of the label, ``[n, 4]``; a label size of 0 means no label.
    """

    keys: np.ndarray
    spans: np.ndarray


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


class TextPlaces:
    """The samples of a split, by the index of text beside each shard.

    Args:
        directory: The data set.
        shards: Its shards.

    Raises:
        ValueError: when an index is missing or damaged, or does not match dataset.json.
    """

    def __init__(self, directory: str, shards: Sequence[Shard]) -> None:
        indices = []
        for shard in shards:
            path = join(directory, str(index_path(Path(shard.path))))
            indices.append(read_index(path))
            if len(indices[-1].keys) != shard.num_images:
                raise ValueError(f"{path}: {len(indices[-1].keys)} samples, but dataset.json says {shard.num_images}")
            end = int((indices[-1].spans[:, [0, 2]] + indices[-1].spans[:, [1, 3]]).max(initial=0))
            if end > shard.num_bytes:
                raise ValueError(f"{path}: points at byte {end} of {shard.path}, which has {shard.num_bytes}")
        self._keys = [key for index in indices for key in index.keys]
        self._spans = np.concatenate([index.spans for index in indices])

    def at(self, numbers: np.ndarray) -> list[TextPlace]:
        """Return the places of the samples of these numbers, which ascend."""
        rows = zip(numbers.tolist(), *self._spans[numbers].T.tolist(), strict=True)
        return [
            TextPlace(number, self._keys[number].decode(), offset, size, label_offset, label_size)
            for number, offset, size, label_offset, label_size in rows
        ]

    def keys(self) -> list[str]:
        """Return the keys of all samples."""
        return [key.decode() for key in self._keys]
