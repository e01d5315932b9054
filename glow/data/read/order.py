"""The order in which training sees the images: a pure function of seed, epoch and global batch size.

An epoch is made like this. The data set is cut into runs of neighbours. The runs are shuffled, and so are the images
within each run. The result is cut into as many contiguous lanes as a batch has images. Position i of the epoch is image
``i // batch_size`` of lane ``i % batch_size``. So the global batches do not depend on the number of processes, and a
process that takes a range of slots of every batch still reads long contiguous runs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from glow.randomness import generator, mixed_bits

VERSIONS = (1, 2)
MOST_SORTED = 2**20
NUM_ROUNDS = 12


def newest_version(num_images: int) -> int:
    """Return the version of the order with which a new training begins.

    1 sorts all images at the start of an epoch: about 0.8 us and 50 bytes an image, in every worker. 2 computes the
    images at the positions that are asked for.
    """
    return 1 if num_images <= MOST_SORTED else 2


def epoch_order(num_images: int, run_length: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Return the numbers of all images in the order of one epoch, ``[num_images]``: version 1."""
    rng = generator(seed, "order", epoch)
    # A random phase: in every epoch an image shares its run with other neighbours.
    run_of = (np.arange(num_images) + rng.integers(run_length)) // run_length
    place_of_run = rng.permutation(run_of[-1] + 1)
    shuffled = np.lexsort((rng.random(num_images), place_of_run[run_of]))
    return shuffled[lane_positions(np.arange(num_images), num_images, batch_size)]


def lane_positions(positions: np.ndarray, num_images: int, batch_size: int) -> np.ndarray:
    """Return where in the shuffled images the positions of an epoch lie; lanes differ in length by one at most."""
    steps, lanes = np.divmod(positions, batch_size)
    length, longer = divmod(num_images, batch_size)
    return lanes * length + np.minimum(lanes, longer) + steps


class KeyedOrder:
    """One epoch in version 2, computed for the positions that are asked for.

    Runs lie on a circle that begins at a random image; one of them is shorter. The place of a run, and that of an image
    in its run, are keyed permutations.
    """

    def __init__(self, num_images: int, run_length: int, batch_size: int, seed: int, epoch: int) -> None:
        self.num_images, self.run_length, self.batch_size = num_images, run_length, batch_size
        rng = generator(seed, "order", epoch)
        self.phase = int(rng.integers(num_images))
        self.keys = rng.bit_generator.random_raw(2)
        self.num_runs = -(-num_images // run_length)
        self.last_length = num_images - (self.num_runs - 1) * run_length
        # Where the shorter run stands among the shuffled ones.
        self.last_place = int(self._unshuffled(np.array([self.num_runs - 1]))[0])

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the image numbers at positions of the epoch."""
        shuffled = lane_positions(positions, self.num_images, self.batch_size)
        start = self.last_place * self.run_length  # of the shorter run
        behind = shuffled >= start + self.last_length
        is_last = (shuffled >= start) & ~behind
        places, offsets = np.divmod(
            np.where(behind, shuffled + self.run_length - self.last_length, shuffled), self.run_length
        )
        runs = permuted(places, np.array(self.num_runs), self.keys[0])
        lengths = np.where(is_last, self.last_length, self.run_length)
        within = permuted(offsets, lengths, mixed_bits(self.keys[1] ^ runs.astype(np.uint64)))
        return (runs * self.run_length + within + self.phase) % self.num_images

    def _unshuffled(self, runs: np.ndarray) -> np.ndarray:
        return permuted(runs, np.array(self.num_runs), self.keys[0], inverse=True)


def permuted(numbers: np.ndarray, sizes: np.ndarray, keys: np.ndarray | np.uint64, inverse: bool = False) -> np.ndarray:
    """Return where keyed permutations of ``0 .. sizes - 1`` take numbers, int64 of the shape of ``numbers``.

    A Feistel network on two halves of sizes a and b, with a b a little above the size: what leaves the range goes
    through again.

    Source: Black & Rogaway, "Ciphers with Arbitrary Finite Domains" (2002), generalised Feistel and cycle walking.

    Args:
        numbers: int64, below the sizes.
        sizes: int64, of the shape of ``numbers`` or of one number.
        keys: uint64, as ``sizes``.
        inverse: Whether to go back.
    """
    a = np.ceil(np.sqrt(sizes)).astype(np.int64)
    b = -(-sizes // a)
    a, b, sizes, keys = (np.broadcast_to(value, numbers.shape) for value in (a, b, sizes, np.asarray(keys, np.uint64)))
    result = numbers.copy()
    todo = np.arange(numbers.size)
    while len(todo):
        walked = _feistel(result[todo], a[todo], b[todo], keys[todo], inverse)
        result[todo] = walked
        todo = todo[walked >= sizes[todo]]
    return result


def _feistel(numbers: np.ndarray, a: np.ndarray, b: np.ndarray, keys: np.ndarray, inverse: bool) -> np.ndarray:
    left, right = np.divmod(numbers, b)
    for number in reversed(range(NUM_ROUNDS)) if inverse else range(NUM_ROUNDS):
        is_left = number % 2 == 0
        other, size = (right, a) if is_left else (left, b)
        round_key = mixed_bits(keys + np.uint64(number + 1))
        add = (mixed_bits(round_key ^ other.astype(np.uint64)) % size.astype(np.uint64)).astype(np.int64)
        moved = ((left if is_left else right) + (size - add if inverse else add)) % size
        left, right = (moved, right) if is_left else (left, moved)
    return left * b + right


class TrainingOrder:
    """The endless sequence of image numbers, epoch after epoch; a batch may span two epochs.

    Args:
        num_images: Size of the split.
        run_length: Neighbours that are read together.
        batch_size: Of the global batch.
        seed: Of the training.
        version: Of the order. Default: that of new trainings.
    """

    def __init__(
        self, num_images: int, run_length: int, batch_size: int, seed: int, version: int | None = None
    ) -> None:
        self.num_images = num_images
        self._arguments = (num_images, run_length, batch_size, seed)
        self._version = version or newest_version(num_images)
        self._orders: dict[int, Callable[[np.ndarray], np.ndarray]] = {}

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the epoch and the image number at each position; position 0 is the first image of the training."""
        epochs, offsets = np.divmod(positions, self.num_images)
        images = np.empty_like(offsets)
        needed = np.unique(epochs).tolist()
        self._orders = {epoch: self._orders[epoch] for epoch in needed if epoch in self._orders}
        for epoch in needed:
            if epoch not in self._orders:
                self._orders[epoch] = self._order(epoch)
            chosen = epochs == epoch
            images[chosen] = self._orders[epoch](offsets[chosen])
        return epochs, images

    def _order(self, epoch: int) -> Callable[[np.ndarray], np.ndarray]:
        if self._version == 1:
            return epoch_order(*self._arguments, epoch).__getitem__
        return KeyedOrder(*self._arguments, epoch).at
