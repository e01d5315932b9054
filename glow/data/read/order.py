"""The order in which training sees the images: a pure function of seed, epoch and global batch size."""

from __future__ import annotations

import numpy as np

from glow.randomness import generator


def epoch_order(num_images: int, run_length: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Return the numbers of all images in the order of one epoch, ``[num_images]``.

    The data set is cut into runs of ``run_length`` neighbours. The runs are shuffled, and so are the images within each
    run. The result is cut into ``batch_size`` contiguous lanes. Position i of the epoch is image ``i // batch_size`` of
    lane ``i % batch_size``. So the global batches do not depend on the number of processes, and a process that takes a
    range of slots of every batch still reads long contiguous runs.
    """
    rng = generator(seed, "order", epoch)
    # A random phase: in every epoch an image shares its run with other neighbours.
    run_of = (np.arange(num_images) + rng.integers(run_length)) // run_length
    place_of_run = rng.permutation(run_of[-1] + 1)
    shuffled = np.lexsort((rng.random(num_images), place_of_run[run_of]))
    steps, lanes = np.divmod(np.arange(num_images), batch_size)
    length, longer = divmod(num_images, batch_size)
    return shuffled[lanes * length + np.minimum(lanes, longer) + steps]


class TrainingOrder:
    """The endless sequence of image numbers, epoch after epoch; a batch may span two epochs."""

    def __init__(self, num_images: int, run_length: int, batch_size: int, seed: int) -> None:
        self.num_images = num_images
        self.run_length = run_length
        self.batch_size = batch_size
        self.seed = seed
        self._orders: dict[int, np.ndarray] = {}

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the epoch and the image number at each position; position 0 is the first image of the training."""
        epochs, offsets = np.divmod(positions, self.num_images)
        images = np.empty_like(offsets)
        needed = np.unique(epochs).tolist()
        self._orders = {epoch: self._orders[epoch] for epoch in needed if epoch in self._orders}
        for epoch in needed:
            if epoch not in self._orders:
                self._orders[epoch] = epoch_order(self.num_images, self.run_length, self.batch_size, self.seed, epoch)
            chosen = epochs == epoch
            images[chosen] = self._orders[epoch][offsets[chosen]]
        return epochs, images
