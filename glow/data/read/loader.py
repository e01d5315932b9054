"""Batches for training: endless, seeded, resumable. Batches for evaluation: every image exactly once."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import math
import weakref
from collections.abc import Generator, Iterable, Iterator
from functools import cache

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from glow.config import DataConfig
from glow.data.images.window import window
from glow.data.read.batch import Batch, Share
from glow.data.read.order import TrainingOrder
from glow.data.read.places import Sample
from glow.data.read.reader import SplitReader
from glow.data.read.workers import shorten_socket_paths, start_worker, worker_count
from glow.randomness import Restarted, generator, noise_of, noise_words, uniform_noise

RUN_BYTES = 2**20  # read at once from one place of a shard: large enough for a parallel file system
WINDOW_BYTES = 2**26  # read ahead by each reader


def dequantization_noise(key: str, shape: tuple[int, ...], seed: int, draw: int = 0) -> np.ndarray:
    """Return the noise that dequantises an image in an evaluation, float32 in (0, 1), of the shape of the image.

    Args:
        key: The key of the image.
        shape: Its shape.
        seed: The seed of the evaluation.
        draw: Which of several draws for the same image.
    """
    return uniform_noise(generator(seed, "dequantize", key, draw), shape)


def train_batches(
    config: DataConfig,
    batch_size: int,
    seed: int,
    images_seen: int = 0,
    share: Share | None = None,
    order: int | None = None,
) -> Iterator[Batch]:
    """Return an endless iterator over the parts of the global batches that belong to this process.

    The sequence of global batches depends on seed and batch size only, not on the number of processes or workers. The
    same holds for the noise and the augmentation of an image, which differ in every epoch.

    Args:
        config: The data set, augmentation, number of workers.
        batch_size: The size of the global batch.
        seed: The seed of the training.
        images_seen: The position to start from.
        share: Which process this is. Default: the only one.
        order: Version of the order of the images. Default: that of new trainings.

    Raises:
        ValueError: when the batch is smaller than the number of processes, or the train split is empty.
    """
    share = share or Share()
    share.check_batch_size(batch_size)
    # Each worker reads its own slots of the batch. Their parts arrive in turn.
    num_workers = worker_count(config.num_workers, most=batch_size // share.num_processes)
    stream = _TrainStream(config, batch_size, seed, images_seen, share, order)
    return _joined(parts_of(stream, num_workers), max(1, num_workers))


def parts_of(stream: IterableDataset[Batch | ValueError], num_workers: int) -> Iterator[Batch]:
    """Read a stream in worker processes, or in this one: the next part of each reader in turn.

    Raises:
        ValueError: the error that a stream yields. An exception of a worker would become a traceback.
    """
    if num_workers:
        shorten_socket_paths()
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=start_worker,
    )
    parts = _without_errors(loader)
    if num_workers:  # they ignore the SIGTERM after which Python would wait for them at its end
        atexit.register(_close, weakref.ref(parts))
    return parts


def _without_errors(parts: Iterable[Batch | ValueError]) -> Generator[Batch, None, None]:
    for part in parts:
        if isinstance(part, ValueError):
            raise part
        yield part


def _close(parts: weakref.ref[Generator[Batch, None, None]]) -> None:
    still_there = parts()
    if still_there is not None:
        still_there.close()


def _joined(parts: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Join every ``count`` parts to one batch."""
    pending: list[Batch] = []
    for part in parts:
        pending.append(part)
        if len(pending) == count:
            yield Batch.concatenate(pending)
            pending = []


def eval_batches(
    reader: SplitReader, batch_size: int, seed: int, share: Share | None = None, num_images: int | None = None
) -> Iterator[Batch]:
    """Yield every image of the part of a split that belongs to this process, exactly once and in order.

    Args:
        reader: The split.
        batch_size: Images per batch; the last batch may have fewer.
        seed: The seed of the dequantisation noise.
        share: Which process this is. Default: the only one.
        num_images: Use only the first so many images. Default: all.
    """
    numbers = (share or Share()).slots(min(len(reader), num_images or len(reader)))
    for start in range(numbers.start, numbers.stop, batch_size):
        samples = reader.read(range(start, min(start + batch_size, numbers.stop)))
        ordered = [samples[number] for number in sorted(samples)]
        noise = [dequantization_noise(sample.key, reader.shape, seed) for sample in ordered]
        yield Batch.of(ordered, [reader.decode(sample) for sample in ordered], noise)


def augment(image: np.ndarray, config: DataConfig, rng: np.random.Generator) -> np.ndarray:
    """Cut a window out of one image ``[C, H, W]``, mirror it and shift it at random, as the config says.

    A shift repeats the border pixels.
    """
    image = window(image, config.size, rng if config.crop == "random" else None)
    if config.flip and rng.random() < 0.5:
        image = image[:, :, ::-1]
    if config.shift:
        _, height, width = image.shape
        # One by one: the same numbers in half the time.
        down, right = (int(rng.integers(-config.shift, config.shift, endpoint=True)) for _ in range(2))
        image = image.take(_shifted(height, down), 1).take(_shifted(width, right), 2)
    return image


@cache
def _shifted(size: int, by: int) -> np.ndarray:
    """Return from where each of ``size`` rows or columns comes in a shift."""
    return np.clip(np.arange(size) - by, 0, size - 1)


class _TrainStream(IterableDataset[Batch | ValueError]):
    """The parts of the global batches that one reader yields: a process, or one of its workers."""

    def __init__(
        self, config: DataConfig, batch_size: int, seed: int, images_seen: int, share: Share, order: int | None
    ) -> None:
        self.config = config
        self.batch_size = batch_size
        self.seed = seed
        self.images_seen = images_seen
        self.share = share
        self.order = order
        self.random = Restarted()
        self.reader = SplitReader(config.path, "train", config.root, config.size)
        if not len(self.reader):
            raise ValueError(f"{config.path}: the train split holds no image")

    def __iter__(self) -> Iterator[Batch | ValueError]:
        try:
            yield from self._parts()
        except (ValueError, OSError) as error:
            # Yielded, not raised: a data loader turns an exception of a worker into a traceback.
            yield ValueError(str(error))

    def _parts(self) -> Iterator[Batch]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        share = Share(self.share.rank * workers + number, self.share.num_processes * workers)
        slots = np.arange(self.batch_size)[share.slots(self.batch_size).start : share.slots(self.batch_size).stop]
        sample_bytes = self.reader.mean_sample_bytes
        longest = max(1, len(self.reader) // self.batch_size)
        run_length = int(np.clip(RUN_BYTES / sample_bytes, 1, longest))
        longest_window = int(np.clip(WINDOW_BYTES / (sample_bytes * len(slots)), 1, run_length))
        order = TrainingOrder(len(self.reader), run_length, self.batch_size, self.seed, self.order)
        position, window = self.images_seen, 1  # of batches; short at first, so that training starts soon
        while True:
            batch_starts = position + self.batch_size * np.arange(window)
            epochs, numbers = order.at(batch_starts[:, None] + slots)
            samples, errors = self._read(numbers.ravel().tolist())
            for row in zip(epochs.tolist(), numbers.tolist(), strict=True):
                yield self._batch(zip(*row, strict=True), samples, errors)
            position += self.batch_size * window
            window = min(4 * window, longest_window)

    def _read(self, numbers: list[int]) -> tuple[dict[int, Sample], dict[int, ValueError]]:
        if self.config.on_error == "stop":
            return self.reader.read(numbers), {}
        return self.reader.read_readable(numbers)

    def _batch(
        self, places: Iterable[tuple[int, int]], samples: dict[int, Sample], errors: dict[int, ValueError]
    ) -> Batch:
        """Decode the images of one batch; ``places`` are pairs of epoch and number."""
        places = list(places)
        shape = self.reader.shape
        images = np.empty((len(places), *shape), np.uint8)
        words = np.empty((len(places), -(-math.prod(shape) // 4)), np.uint64)
        chosen, skipped = [], []
        for row, (epoch, number) in enumerate(places):
            try:
                sample, pixels = self._decode(number, samples, errors)
            except ValueError as error:
                if self.config.on_error == "stop":
                    raise
                skipped.append(str(error))
                sample, pixels = self._substitute(epoch, number)
            rng = self.random.restart(self.seed, "train", epoch, sample.key)
            chosen.append(sample)
            images[row] = augment(pixels, self.config, rng)
            words[row] = noise_words(rng, shape)
        return dataclasses.replace(Batch.of(chosen, images, noise_of(words, shape)), skipped=tuple(skipped))

    def _decode(
        self, number: int, samples: dict[int, Sample], errors: dict[int, ValueError]
    ) -> tuple[Sample, np.ndarray]:
        if number in errors:
            raise errors[number]
        return samples[number], self.reader.decode_whole(samples[number])

    def _substitute(self, epoch: int, number: int) -> tuple[Sample, np.ndarray]:
        """Return a random sample in place of a damaged one; the choice depends on seed, epoch and number only."""
        rng = generator(self.seed, "substitute", epoch, number)
        for other in rng.integers(len(self.reader), size=100).tolist():
            with contextlib.suppress(ValueError):
                return self._decode(other, *self._read([other]))
        raise ValueError(f"{self.config.path}: of 100 samples at random, none can be read")
