"""Read samples of a split by their number."""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glow.data.images.decoding import ImageForm, decode, decoder_version
from glow.data.images.png import decode_png
from glow.data.read.files import PART_BYTES, fetch, is_remote, join, read_part
from glow.data.read.index import SampleIndex, index_path, read_index, read_linked_index
from glow.data.read.links import resolve
from glow.data.read.manifest import Dataset, Shard, load_dataset
from glow.data.read.pipe import PIPE
from glow.data.read.remote import UNKNOWN_SIZE

NUM_REQUESTS = 8  # at a time, of one reader
GAP_BYTES = 2**16  # samples closer than this are read by one request, with the gap between them
MAX_LABEL_BYTES = 18  # 18 digits fit into 64 bits
BLOCK = 512  # of a tar: a header stands before each file
NAME_BYTES = 100  # of a name in a header; the end of a longer one stands elsewhere


def is_member(data: bytes, start: int, name: bytes) -> bool:
    """Return whether a file of this name begins at ``start`` of a part of a tar, by the header before it."""
    header = data[max(0, start - BLOCK) : start]
    found, prefix = header[:NAME_BYTES].rstrip(b"\0"), header[345:500].rstrip(b"\0")
    return name in (found, prefix + b"/" + found) or (len(found) == NAME_BYTES and name.startswith(found))


@dataclass(frozen=True)
class Sample:
    """One image as stored in a shard: its key, the bytes of its file, and the text of its label (empty: no label)."""

    key: str
    png: bytes
    cls: bytes

    @property
    def label(self) -> int | None:
        """The index of the class, or None without a label."""
        return int(self.cls) if self.cls else None


class SplitReader:
    """The images of one split, numbered 0 .. n - 1 in the order of the shards.

    Args:
        directory: The data set.
        split: Name of the split.
        root: Of a linked data set: a folder above its local files; see ``links.resolve``.

    Raises:
        ValueError: when the data set, the split or an index is missing, or an index does not match dataset.json.
    """

    def __init__(self, directory: str | Path, split: str, root: str | None = None) -> None:
        self.directory = str(directory)
        self.root = root
        self.dataset: Dataset = load_dataset(directory)
        self.split = self.dataset.split(split)
        indices = []
        for shard in self.split.shards:
            path = join(self.directory, str(index_path(Path(shard.path))))
            indices.append(self._read_index(path, shard))
            self._location(shard)  # before anything takes long
            if len(indices[-1].keys) != shard.num_images:
                raise ValueError(f"{path}: {len(indices[-1].keys)} samples, but dataset.json says {shard.num_images}")
            end = int((indices[-1].spans[:, [0, 2]] + indices[-1].spans[:, [1, 3]]).max(initial=0))
            if end > shard.num_bytes:
                raise ValueError(f"{path}: points at byte {end} of {shard.path}, which has {shard.num_bytes}")
        self._indices: list[SampleIndex] = indices
        if self.dataset.decoder not in (None, decoder_version()):
            warnings.warn(
                f"{directory}: linked with {self.dataset.decoder}, and read with {decoder_version()}: pixels may "
                "differ a little",
                stacklevel=2,
            )
        self._first = np.cumsum([0, *(shard.num_images for shard in self.split.shards)])
        self._unreadable: dict[int, ValueError] = {}

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self._first[-1])

    def keys(self) -> list[str]:
        """Return the keys of all images, in the order of their numbers."""
        return [key.decode() for index in self._indices for key in index.keys]

    def _read_index(self, path: str, shard: Shard) -> SampleIndex:
        if shard.index_sha256 is None:
            return read_index(path)
        return read_linked_index(path, self.dataset.shape, shard.index_sha256)

    def _location(self, shard: Shard) -> str:
        if shard.location is None:
            return join(self.directory, shard.path)
        return resolve(shard.location, self.directory, self.root)

    @property
    def mean_sample_bytes(self) -> float:
        """The mean size of a sample in the shards, with its tar headers."""
        if self.dataset.decoder is not None:  # most of a tar may belong to other splits
            return sum(int(index.spans[:, 1].sum()) for index in self._indices) / max(1, len(self)) + 2 * BLOCK
        return sum(shard.num_bytes for shard in self.split.shards) / max(1, len(self))

    def verify(self) -> None:
        """Compare the sha256 of every shard with dataset.json.

        Not those of a linked data set: there each image is compared with a checksum of its own when it is read, and the
        rest of a shard need not be read.

        Raises:
            ValueError: when they differ; names the shard.
        """
        if self.dataset.decoder is not None:
            return
        for shard in self.split.shards:
            path = self._location(shard)
            digest = hashlib.sha256()
            for start in range(0, shard.num_bytes, PART_BYTES):
                digest.update(self._read_bytes(shard, start, min(start + PART_BYTES, shard.num_bytes)))
            if digest.hexdigest() != shard.sha256:
                raise ValueError(f"{path}: damaged or changed: its sha256 is not the one in dataset.json")

    def read(self, numbers: Iterable[int]) -> dict[int, Sample]:
        """Read the samples of these numbers; one request reads neighbours together.

        Raises:
            ValueError: when a shard is missing or has another size than dataset.json says; names the shard.
        """
        runs = list(self._runs(numbers))
        if len(runs) < 2 or not self._is_remote:
            return {number: sample for run in runs for number, sample in self._read_run(*run)}
        with ThreadPoolExecutor(min(len(runs), NUM_REQUESTS)) as pool:  # a server takes as long for one as for several
            parts = pool.map(lambda run: self._read_run(*run), runs)
            return {number: sample for part in parts for number, sample in part}

    def read_readable(self, numbers: Iterable[int]) -> tuple[dict[int, Sample], dict[int, ValueError]]:
        """Read these samples, where possible; return the samples, and the errors of the others, by number.

        A shard that could not be read is not tried again.
        """
        samples: dict[int, Sample] = {}
        errors: dict[int, ValueError] = {}
        for shard, rows in self._runs(numbers):
            if shard not in self._unreadable:
                try:
                    samples |= self._read_run(shard, rows)
                except (ValueError, OSError) as error:
                    self._unreadable[shard] = ValueError(str(error))
            if shard in self._unreadable:
                errors |= {int(self._first[shard]) + row: self._unreadable[shard] for row in rows}
        return samples, errors

    @property
    def _is_remote(self) -> bool:
        """Whether shards lie on servers or in buckets; commands run one at a time."""
        location = self._location(self.split.shards[0]) if self.split.shards else ""
        return is_remote(location) and not location.startswith(PIPE)

    def decode(self, sample: Sample) -> np.ndarray:
        """Decode an image to uint8 ``[C, H, W]``. Those of a linked data set are brought to its shape.

        Raises:
            ValueError: when the image or the label is damaged or does not match dataset.json; names the key.
        """
        # Not torchvision's decode_png, a third faster: it crashes the process on a damaged file (seen with 0.29).
        classes = self.dataset.classes
        if sample.cls:
            is_number = sample.cls.isdigit() and len(sample.cls) <= MAX_LABEL_BYTES
            if not is_number or (classes is not None and int(sample.cls) >= len(classes)):
                raise ValueError(f"{self.directory}: sample {sample.key} is damaged: its label is {sample.cls[:40]!r}")
        if self.dataset.decoder is not None:
            try:
                return ImageForm.of_shape(self.dataset.shape).pixels(sample.key, decode(sample.key, sample.png))
            except ValueError as error:
                raise ValueError(f"{self.directory}: sample {error}") from error
        try:
            return decode_png(sample.png, self.dataset.shape)
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise ValueError(f"{self.directory}: sample {sample.key} is damaged: {error}") from error

    def _read_run(self, shard_number: int, rows: list[int]) -> list[tuple[int, Sample]]:
        """Read near neighbours of one shard by one request; return their numbers and samples."""
        shard, index = self.split.shards[shard_number], self._indices[shard_number]
        spans = index.spans[rows]
        offsets, sizes = spans[:, [0, 2]], spans[:, [1, 3]]
        start = max(0, int(offsets[sizes > 0].min()) - BLOCK)
        data = self._read_bytes(shard, start, int((offsets + sizes).max()))
        samples = []
        # Four lists of numbers: a list for each sample would keep the garbage collector busy.
        places = (*(offsets - start).T.tolist(), *sizes.T.tolist())
        for row, png, cls, png_size, cls_size in zip(rows, *places, strict=True):
            key = index.keys[row]
            if index.linked is not None:
                sample = self._linked(data, png, png_size, shard, index, row)
                samples.append((int(self._first[shard_number]) + row, sample))
                continue
            # The index has no checksum of its own: the shard says which sample this is.
            if not (is_member(data, png, key + b".png") and (cls_size == 0 or is_member(data, cls, key + b".cls"))):
                path = join(self.directory, str(index_path(Path(shard.path))))
                raise ValueError(f"{path}: damaged index: {key.decode()} is not at that place of {shard.path}")
            sample = Sample(key.decode(), data[png : png + png_size], data[cls : cls + cls_size])
            samples.append((int(self._first[shard_number]) + row, sample))
        return samples

    def _linked(self, data: bytes, start: int, size: int, shard: Shard, index: SampleIndex, row: int) -> Sample:
        """Return a sample that others wrote, if it is the one that was linked."""
        assert index.linked is not None
        key, content = index.keys[row].decode(), data[start : start + size]
        name = index.linked.names[row]
        if not is_member(data, start, name) or zlib.crc32(content) != index.linked.checksums[row]:
            raise ValueError(
                f"{self._location(shard)}: {name.decode(errors='replace')} is damaged or changed since it was linked"
            )
        return Sample(key, content, index.linked.labels[row])

    def _runs(self, numbers: Iterable[int]) -> Iterator[tuple[int, list[int]]]:
        """Group numbers into runs of near neighbours in one shard; yield its number and the rows of its index."""
        ordered = np.unique(np.fromiter(numbers, dtype=np.int64))
        shards = np.searchsorted(self._first, ordered, side="right") - 1
        longest_gap = 1 + GAP_BYTES // max(1, int(self.mean_sample_bytes))
        breaks = np.flatnonzero((np.diff(ordered) > longest_gap) | (np.diff(shards) != 0)) + 1
        for run, shard in zip(np.split(ordered, breaks), np.split(shards, breaks), strict=True):
            if len(run):
                yield int(shard[0]), (run - self._first[shard[0]]).tolist()

    def _read_bytes(self, shard: Shard, start: int, end: int) -> bytes:
        location = self._location(shard)
        try:
            place = fetch(location, shard.sha256, shard.num_bytes) if location.startswith(PIPE) else location
            data, size = read_part(place, start, end)
        except FileNotFoundError as error:
            raise ValueError(f"{location}: cannot be read: there is no such file") from error
        if size not in (shard.num_bytes, UNKNOWN_SIZE) or len(data) != end - start:
            found = f"{size} bytes" if size != UNKNOWN_SIZE else "too few bytes"
            raise ValueError(f"{location}: {found}, but dataset.json says {shard.num_bytes}: damaged or partly copied")
        return data
