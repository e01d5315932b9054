"""Read samples of a split by their number."""

from __future__ import annotations

import hashlib
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from glow.data.images.decoding import ImageForm, decode, decoder_version
from glow.data.images.png import decode_png
from glow.data.images.window import window
from glow.data.read.files import PART_BYTES, fetch, fetch_index, is_remote, join, read_part
from glow.data.read.index import TextPlaces
from glow.data.read.links import resolve
from glow.data.read.manifest import Dataset, Shard, load_dataset
from glow.data.read.pipe import PIPE
from glow.data.read.places import BLOCK, Place, Sample, TextPlace
from glow.data.read.remote import UNKNOWN_SIZE
from glow.data.read.samples import SampleTable

NUM_REQUESTS = 8  # at a time, of one reader
GAP_BYTES = 2**16  # samples closer than this are read by one request, with the gap between them
MAX_LABEL_BYTES = 18  # 18 digits fit into 64 bits


class SplitReader:
    """The images of one split, numbered 0 .. n - 1 in the order of the shards.

    Args:
        directory: The data set.
        split: Name of the split.
        root: Of a linked data set: a folder above its local files; see ``links.resolve``.
        size: Height and width of the windows that are cut out of the images; needed where these differ in size.

    Attributes:
        shape: Channels, height, width of the images, or of the windows.

    Raises:
        ValueError: when the data set, the split or an index is missing, an index does not match dataset.json, or the
            images are smaller than the windows.
    """

    def __init__(self, directory: str | Path, split: str, root: str | None = None, size: int | None = None) -> None:
        self.directory = str(directory)
        self.root = root
        self.dataset: Dataset = load_dataset(directory)
        self.split = self.dataset.split(split)
        self.size, self.shape = size, self.dataset.window(size)
        # Once, and before anything takes long: a path is looked up on the file system.
        self._locations = {shard.path: self._location(shard) for shard in self.split.shards}
        self._is_remote = any(is_remote(place) and not place.startswith(PIPE) for place in self._locations.values())
        self._first = np.cumsum([0, *(shard.num_images for shard in self.split.shards)])
        self._table = self._open_table() if self.split.index else None
        self._places = self._table or TextPlaces(self.directory, self.split.shards)
        if self.dataset.decoder not in (None, decoder_version()):
            warnings.warn(
                f"{directory}: linked with {self.dataset.decoder}, and read with {decoder_version()}: pixels may "
                "differ a little",
                stacklevel=2,
            )
        self._form = ImageForm.of_shape(self.dataset.shape, self.dataset.short_side)
        self._unreadable: dict[int, ValueError] = {}

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self._first[-1])

    def keys(self) -> list[str]:
        """Return the keys of all images, in the order of their numbers."""
        return self._places.keys()

    def _open_table(self) -> SampleTable:
        index = self.split.index
        assert index is not None
        path = join(self.directory, index.path)
        local = fetch_index(path, index.sha256, index.num_bytes) if is_remote(path) else path
        num_bytes = np.array([shard.num_bytes for shard in self.split.shards])
        return SampleTable(local, index, self.dataset.form, self._first, num_bytes, is_copy=local != path)

    def _location(self, shard: Shard) -> str:
        if shard.location is None:
            return join(self.directory, shard.path)
        return resolve(shard.location, self.directory, self.root)

    @property
    def mean_sample_bytes(self) -> float:
        """The mean size of a sample in the shards, with its tar headers."""
        if self._table and self.dataset.decoder is not None:  # most of a tar may belong to other splits
            return self._table.image_bytes / max(1, len(self)) + 2 * BLOCK
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
            path = self._locations[shard.path]
            digest = hashlib.sha256()
            for start in range(0, shard.num_bytes, PART_BYTES):
                digest.update(self._read_bytes(shard, start, min(start + PART_BYTES, shard.num_bytes)))
            if digest.hexdigest() != shard.sha256:
                raise ValueError(f"{path}: damaged or changed: its sha256 is not the one in dataset.json")

    def read(self, numbers: Iterable[int]) -> dict[int, Sample]:
        """Read the samples of these numbers; one request reads neighbours together.

        Raises:
            ValueError: when a shard is missing or has another size than dataset.json says, or a sample is damaged;
                names the shard.
        """
        runs = list(self._runs(numbers))
        if len(runs) < 2 or not self._is_remote:  # commands run one at a time
            parts: Iterable[dict[int, Sample | ValueError]] = [self._read_run(*run) for run in runs]
        else:
            with ThreadPoolExecutor(min(len(runs), NUM_REQUESTS)) as pool:  # several requests take as long as one
                parts = list(pool.map(lambda run: self._read_run(*run), runs))
        samples = {}
        for number, sample in (item for part in parts for item in part.items()):
            if isinstance(sample, ValueError):
                raise sample
            samples[number] = sample
        return samples

    def read_readable(self, numbers: Iterable[int]) -> tuple[dict[int, Sample], dict[int, ValueError]]:
        """Read these samples, where possible; return the samples, and the errors of the others, by number.

        A shard that could not be read is not tried again.
        """
        samples: dict[int, Sample] = {}
        errors: dict[int, ValueError] = {}
        for shard, places in self._runs(numbers):
            if shard not in self._unreadable:
                try:
                    for number, sample in self._read_run(shard, places).items():
                        if isinstance(sample, ValueError):
                            errors[number] = sample
                        else:
                            samples[number] = sample
                except (ValueError, OSError) as error:
                    self._unreadable[shard] = ValueError(str(error))
            if shard in self._unreadable:
                errors |= {place.number: self._unreadable[shard] for place in places}
        return samples, errors

    def decode(self, sample: Sample) -> np.ndarray:
        """Decode an image to uint8 ``[C, H, W]``, or the window at its centre.

        Raises:
            ValueError: as ``decode_whole``.
        """
        return window(self.decode_whole(sample), self.size)

    def decode_whole(self, sample: Sample) -> np.ndarray:
        """Decode a whole image to uint8 ``[C, H, W]``. Those of a linked data set are brought to its form.

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
                return self._form.pixels(sample.key, decode(sample.key, sample.png))
            except ValueError as error:
                raise ValueError(f"{self.directory}: sample {error}") from error
        try:
            return decode_png(sample.png, self.dataset.shape, self.dataset.largest)
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise ValueError(f"{self.directory}: sample {sample.key} is damaged: {error}") from error

    def _runs(self, numbers: Iterable[int]) -> Iterator[tuple[int, list[Place | TextPlace]]]:
        """Group samples into runs of near neighbours in one shard; yield its number and their places."""
        ordered = np.unique(np.fromiter(numbers, dtype=np.int64))
        shards = (np.searchsorted(self._first, ordered, side="right") - 1).tolist()
        run: list[Place | TextPlace] = []
        current = -1
        places: Sequence[Place | TextPlace] = self._places.at(ordered)
        for shard, place in zip(shards, places, strict=True):
            if run and (shard != current or place.start - run[-1].end > GAP_BYTES):
                yield current, run
                run = []
            current = shard
            run.append(place)
        if run:
            yield current, run

    def _read_run(self, shard_number: int, places: list[Place | TextPlace]) -> dict[int, Sample | ValueError]:
        """Read near neighbours of one shard by one request; return samples, or what is wrong with them, by number."""
        shard, start = self.split.shards[shard_number], places[0].start
        data = self._read_bytes(shard, start, max(place.end for place in places))
        found: dict[int, Sample | ValueError] = {}
        for place in places:
            sample = place.sample(data, start)
            if sample is None:
                what = f"{self._locations[shard.path]}: sample {place.key}"
                found[place.number] = ValueError(f"{what} is damaged or changed since it was indexed")
            else:
                found[place.number] = sample
        return found

    def _read_bytes(self, shard: Shard, start: int, end: int) -> bytes:
        location = self._locations[shard.path]
        try:
            place = fetch(location, shard.sha256, shard.num_bytes) if location.startswith(PIPE) else location
            data, size = read_part(place, start, end)
        except FileNotFoundError as error:
            raise ValueError(f"{location}: cannot be read: there is no such file") from error
        if size not in (shard.num_bytes, UNKNOWN_SIZE) or len(data) != end - start:
            found = f"{size} bytes" if size != UNKNOWN_SIZE else "too few bytes"
            raise ValueError(f"{location}: {found}, but dataset.json says {shard.num_bytes}: damaged or partly copied")
        return data
