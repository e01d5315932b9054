"""The samples of a split in one binary file: where each lies, its checksum, class and key; read block by block.

The file holds a line that names the format, a line of JSON, the blocks, and a table with the end and the digest of each
block. dataset.json has the checksum of the two lines and the table, so that opening costs the same for any number of
samples; a block is compared with its digest when it is used first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glow.data.read.manifest import IndexFile
from glow.data.read.places import Place
from glow.files.limits import SAMPLE_BYTES

FORMAT = b"glow samples 1\n"
BLOCK_ROWS = 1024
ROW = np.dtype([("offset", "<i8"), ("size", "<u4"), ("checksum", "<u4"), ("label", "<i4"), ("key_end", "<u4")])
TABLE_ROW = np.dtype([("end", "<i8"), ("digest", "V16")])
MAX_HEADER_BYTES = 2**12
MAX_KEY_BYTES = 255


class SampleRow(NamedTuple):
    """A sample: its key, offset and size of its image file in the tar, the CRC-32 of that, its class or None.

    Either all samples of a split have a CRC-32, or none has.
    """

    key: str
    offset: int
    size: int
    checksum: int | None
    label: int | None


class SamplesWriter:
    """Writes the samples of a split, in their order.

    Args:
        path: The file to write.
        form: The form in which linked images are read; it becomes a part of the checksum. None: they are not linked.
    """

    def __init__(self, path: Path, form: str | None = None) -> None:
        self.path, self.form = path, form
        self._stream = path.open("wb")
        self._stream.write(b"\n" * MAX_HEADER_BYTES)  # the head has totals, which are known at the end
        self._pending: list[SampleRow] = []
        self._table: list[tuple[int, bytes]] = []
        self._num_samples = self._image_bytes = 0
        self._has_checksums = True

    def add(self, rows: Sequence[SampleRow]) -> None:
        """Append samples.

        Raises:
            OSError: when they cannot be written; names the file.
        """
        self._pending += rows
        with self._named_errors():
            while len(self._pending) >= BLOCK_ROWS:
                self._write_block(self._pending[:BLOCK_ROWS])
                del self._pending[:BLOCK_ROWS]

    def finish(self) -> IndexFile:
        """Finish the file; return its entry of dataset.json.

        Raises:
            OSError: when it cannot be written; names the file.
        """
        with self._named_errors():
            return self._finish()

    def _finish(self) -> IndexFile:
        if self._pending:
            self._write_block(self._pending)
        header = {
            "num_samples": self._num_samples,
            "image_bytes": self._image_bytes,
            "has_checksums": self._has_checksums,
            "form": self.form,
        }
        table = np.array(self._table, TABLE_ROW).tobytes()
        self._stream.write(table)
        num_bytes = self._stream.tell()
        first = (FORMAT + json.dumps(header).encode()).ljust(MAX_HEADER_BYTES, b"\n")
        self._stream.seek(0)
        self._stream.write(first)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return IndexFile(self.path.name, num_bytes, hashlib.sha256(first + table).hexdigest())

    def __enter__(self) -> SamplesWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError) if error[0] else self._named_errors():
            self._stream.close()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _write_block(self, rows: Sequence[SampleRow]) -> None:
        keys = [row.key.encode() for row in rows]
        packed = np.empty(len(rows), ROW)
        packed["offset"] = [row.offset for row in rows]
        packed["size"] = [row.size for row in rows]
        packed["checksum"] = [row.checksum or 0 for row in rows]
        self._has_checksums &= all(row.checksum is not None for row in rows)
        packed["label"] = [-1 if row.label is None else row.label for row in rows]
        packed["key_end"] = np.cumsum([len(key) for key in keys])
        block = packed.tobytes() + b"".join(keys)
        self._stream.write(block)
        self._table.append((self._stream.tell(), _digest(block)))
        self._num_samples += len(rows)
        self._image_bytes += int(packed["size"].sum(dtype=np.int64))


class SampleTable:
    """The samples of a split, numbered 0 .. n - 1.

    Args:
        path: The file, on this machine.
        index: Its entry of dataset.json.
        form: The form in which linked images are read; None: they are not linked.
        firsts: The number of the first sample of each shard, and the number of all samples, ``[num_shards + 1]``.
        num_bytes: The size of each shard, ``[num_shards]``.
        is_copy: Whether the file is a copy that can be fetched again.

    Raises:
        ValueError: when the file is missing, damaged, or does not match dataset.json.
    """

    def __init__(
        self,
        path: str,
        index: IndexFile,
        form: str | None,
        firsts: np.ndarray,
        num_bytes: np.ndarray,
        is_copy: bool = False,
    ) -> None:
        self.path, self.is_copy = path, is_copy
        try:
            with Path(path).open("rb") as stream:
                self._content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path}: the index of this split is missing or empty; prepare the data set again"
            ) from error
        num_blocks = -(-int(firsts[-1]) // BLOCK_ROWS)
        start = len(self._content) - num_blocks * TABLE_ROW.itemsize
        header = self._content[:MAX_HEADER_BYTES]
        digest = hashlib.sha256(header + self._content[max(0, start) :]).hexdigest()
        if len(self._content) != index.num_bytes or start < MAX_HEADER_BYTES or digest != index.sha256:
            raise self._damaged("its sha256 is not the one in dataset.json")
        facts = _facts_of(header)
        if facts.get("num_samples") != firsts[-1] or facts.get("form") != form:
            raise ValueError(f"{path}: another index than that of dataset.json: {header[:200].strip()!r}")
        table = np.frombuffer(self._content, TABLE_ROW, num_blocks, start)
        self._ends = np.concatenate([[MAX_HEADER_BYTES], table["end"]])
        if (np.diff(self._ends) < 0).any() or self._ends[-1] > start:
            raise ValueError(f"{path}: damaged index: its blocks do not follow each other")
        self._digests = table["digest"]
        self._firsts, self._num_bytes = firsts, num_bytes
        self._is_checked = np.zeros(num_blocks, bool)
        self._has_checksums = bool(facts.get("has_checksums"))
        image_bytes = facts.get("image_bytes")
        self.image_bytes = image_bytes if isinstance(image_bytes, int) else 0
        """Bytes of all image files together."""

    def at(self, numbers: np.ndarray) -> list[Place]:
        """Return the places of the samples of these numbers, which ascend.

        Raises:
            ValueError: when a block is damaged.
        """
        found: list[Place] = []
        blocks, rows = np.divmod(numbers, BLOCK_ROWS)
        for chosen in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(blocks)) + 1):
            if len(chosen):
                found += self._places(numbers[chosen], int(blocks[chosen[0]]), rows[chosen])
        return found

    def keys(self) -> list[str]:
        """Return the keys of all samples."""
        return [place.key for place in self.at(np.arange(self._firsts[-1]))]

    def _places(self, numbers: np.ndarray, block: int, chosen: np.ndarray) -> list[Place]:
        rows, keys = self._block(block)
        ends = rows["key_end"]
        spans = zip(np.where(chosen > 0, ends[chosen - 1], 0).tolist(), ends[chosen].tolist(), strict=True)
        names = [keys[start:end].decode() for start, end in spans]
        columns = (rows[name][chosen].tolist() for name in ("offset", "size"))
        checksums = rows["checksum"][chosen].tolist() if self._has_checksums else [None] * len(chosen)
        labels = [None if label < 0 else label for label in rows["label"][chosen].tolist()]
        return list(map(Place, numbers.tolist(), names, *columns, checksums, labels))

    def _block(self, block: int) -> tuple[np.ndarray, bytes]:
        start, end = self._ends[block : block + 2].tolist()
        first = block * BLOCK_ROWS
        count = min(BLOCK_ROWS, int(self._firsts[-1]) - first)
        content = self._content[start:end]
        is_checked = self._is_checked[block]
        if not is_checked and (
            _digest(content) != self._digests[block].tobytes() or len(content) < count * ROW.itemsize
        ):
            raise self._damaged(f"block {block} does not have its digest")
        rows = np.frombuffer(content, ROW, count)
        keys = content[count * ROW.itemsize :]
        if not is_checked:
            self._check(rows, keys, first)
            self._is_checked[block] = True
        return rows, keys

    def _damaged(self, problem: str) -> ValueError:
        text = f"{self.path}: damaged or changed: {problem}"
        if self.is_copy:
            Path(self.path).unlink(missing_ok=True)
            text += "; this copy is removed, so that the next run fetches it again"
        return ValueError(text)

    def _check(self, rows: np.ndarray, keys: bytes, first: int) -> None:
        """Raise a ValueError unless the samples lie in their shards, in order; the index may be a stranger's."""
        SAMPLE_BYTES.check(f"{self.path}: a sample", int(rows["size"].max()))
        shards = np.searchsorted(self._firsts, np.arange(first, first + len(rows)), side="right") - 1
        ends = rows["offset"] + rows["size"]
        overlaps = (rows["offset"][1:] < ends[:-1]) & (shards[1:] == shards[:-1])
        is_outside = (rows["offset"] < 0) | (rows["size"] == 0) | (ends > self._num_bytes[shards]) | (ends < 0)
        if is_outside.any() or overlaps.any():
            raise ValueError(
                f"{self.path}: damaged index: a sample near number {first} lies outside its shard or in another"
            )
        lengths = np.diff(rows["key_end"].astype(np.int64), prepend=0)
        is_text = keys.isascii() and keys.decode("ascii").isprintable()
        fits = ((lengths > 0) & (lengths <= MAX_KEY_BYTES)).all() and rows["key_end"][-1] == len(keys)
        if not fits or not is_text or rows["label"].min() < -1:
            raise ValueError(f"{self.path}: damaged index: a key or class near number {first}")


def _facts_of(header: bytes) -> dict[str, object]:
    try:
        facts = json.loads(header.removeprefix(FORMAT))
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) and header.startswith(FORMAT) else {}


def _digest(block: bytes) -> bytes:
    return hashlib.blake2b(block, digest_size=16).digest()
