"""Images of shards without an index, by the pipeline of webdataset: seeded draws, with weaker promises.

Each process, and each of its workers, draws random shards, reads them from beginning to end, and shuffles what comes in
a buffer. For the same seed, position, processes and workers the draws are the same. There are no epochs.
"""

from __future__ import annotations

import dataclasses
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from glow.config import DataConfig, ModelConfig
from glow.data.images.decoding import EXTENSIONS, ImageForm, decode
from glow.data.read.batch import Batch, Share
from glow.data.read.files import open_stream
from glow.data.read.labels import LabelRule
from glow.data.read.loader import augment, parts_of
from glow.data.read.places import Sample
from glow.data.read.shard_names import shard_names
from glow.data.read.tars import BoundedHeader
from glow.data.read.workers import worker_count
from glow.files.limits import SAMPLE_BYTES
from glow.randomness import generator, uniform_noise

LEAST_IMAGES = 10_000  # to which data.max_skipped refers at the beginning
BUFFER = 1000  # samples that are shuffled
MAX_FAILURES = 100  # of shards, one after the other
MAX_SKIPPED = 1000  # samples, one after the other
Row = tuple[Sample, np.ndarray, np.ndarray]


def streamed_batches(
    config: DataConfig,
    model: ModelConfig,
    batch_size: int,
    position: tuple[int, int],
    share: Share,
    classes: Sequence[str] | None = None,
) -> Iterator[Batch]:
    """Return an endless iterator over this process's parts of the global batches, with fresh draws from a position on.

    Args:
        config: The shards, augmentation, number of workers.
        model: Says the shape of the images, and the number of classes.
        batch_size: The size of the global batch.
        position: The seed of the training, and the images seen before.
        share: Which process this is.
        classes: The names of the classes, if labels may be names.

    Raises:
        ValueError: when there are no shards, or the batch is smaller than the number of processes.
    """
    share.check_batch_size(batch_size)
    stream = _Stream(config, model, len(share.slots(batch_size)), position, share, classes)
    return parts_of(stream, worker_count(config.num_workers, most=config.num_workers))


class _Stream(IterableDataset[Batch | ValueError]):
    """The batches of one reader: a process, or one of its workers."""

    def __init__(
        self,
        config: DataConfig,
        model: ModelConfig,
        size: int,
        position: tuple[int, int],
        share: Share,
        classes: Sequence[str] | None,
    ) -> None:
        assert config.stream is not None
        assert model.image_shape is not None
        self.locations = shard_names(config.stream)
        self.config, self.size, self.position, self.share = config, size, position, share
        self.form, self.shape = ImageForm.of_shape(model.image_shape), model.image_shape
        self.rule = LabelRule.parse(config.label if model.class_conditional else "none")
        self.num_classes = model.num_classes or 0
        self.numbers = {name: number for number, name in enumerate(classes or ())}
        self.skipped: list[str] = []
        self.num_failures = 0

    def __iter__(self) -> Iterator[Batch | ValueError]:
        try:
            yield from self._batches()
        except (ValueError, OSError) as error:
            # Yielded, not raised: a data loader turns an exception of a worker into a traceback.
            yield ValueError(str(error))

    def _batches(self) -> Iterator[Batch]:
        import webdataset as wds  # slow to import

        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        count, mine = self.share.num_processes * workers, self.share.rank * workers + number
        own = self.locations[mine::count] if len(self.locations) >= count else self.locations
        run_seed, images_seen = self.position
        seed = int(generator(run_seed, "stream", images_seen, mine, count).integers(2**62))
        samples = wds.DataPipeline(
            wds.ResampledShards(own, deterministic=True, seed=seed, worker_seed=lambda: mine),
            self._files,
            wds.tariterators.group_by_keys,
            wds.filters.detshuffle(bufsize=BUFFER, initial=min(BUFFER, 2 * self.size), seed=seed),
        )
        rows: list[Row] = []
        for place, sample in enumerate(samples):
            row = self._row(sample, generator(seed, "draw", place))
            rows += [] if row is None else [row]
            if len(rows) == self.size:
                batch = Batch.of(*zip(*rows, strict=True))
                yield dataclasses.replace(batch, skipped=tuple(self.skipped))
                rows, self.skipped = [], []

    def _files(self, shards: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the files of shards, and an empty mark at the end of each shard, as group_by_keys takes them."""
        for shard in shards:
            location = shard["url"]
            try:
                yield from _files_of(location)
                self.num_failures = 0
            except Exception as error:  # tarfile and stores raise errors of many types
                text = " ".join(str(error).split()) or type(error).__name__
                text = text if text.startswith(location) else f"{location}: {text}"
                self.num_failures += 1
                if self.config.on_error == "stop" or self.num_failures >= MAX_FAILURES:
                    raise ValueError(text) from error
                self.skipped.append(text)
            yield {}

    def _row(self, sample: dict[str, Any], rng: np.random.Generator) -> Row | None:
        """Return a sample, its image and its noise; None if it is skipped."""
        name = f"{sample['__url__']}: {sample['__key__']}"
        try:
            kinds = [kind for kind in sample if f".{kind.rpartition('.')[2]}" in EXTENSIONS]
            if not kinds:
                raise ValueError(f"{name}: has no image")
            pixels = self.form.pixels(name, decode(name, sample[kinds[0]]))
            label = self._label(name, sample)
        except ValueError as error:
            if self.config.on_error == "stop" or len(self.skipped) >= MAX_SKIPPED:
                raise
            self.skipped.append(str(error))
            return None
        return Sample(sample["__key__"], b"", label), augment(pixels, self.config, rng), uniform_noise(rng, self.shape)

    def _label(self, name: str, sample: dict[str, Any]) -> bytes:
        if self.rule.member is None:
            return b""
        if self.rule.member not in sample:
            raise ValueError(f"{name}: has no .{self.rule.member} for its label")
        label = self.rule.find(name, sample[self.rule.member])
        label = str(self.numbers.get(label, label))
        if not label.isdigit() or int(label) >= self.num_classes:
            raise ValueError(f"{name}: its label is {label!r}, but the model has classes 0 to {self.num_classes - 1}")
        return label.encode()


def _files_of(location: str) -> Iterator[dict[str, Any]]:
    """Yield the files of a shard, read once from its beginning.

    Raises:
        ValueError: when a file is too large, or there is none.
    """
    num_files = 0
    with open_stream(location) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=BoundedHeader) as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]
            if not member.isreg():
                continue
            SAMPLE_BYTES.check(f"{location}: {member.name!r}", member.size)
            file = tar.extractfile(member)
            assert file is not None
            num_files += 1
            yield {"fname": member.name, "data": file.read(), "__url__": location}
    if not num_files:
        raise ValueError("holds no files")
