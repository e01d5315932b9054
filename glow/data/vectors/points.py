"""Vectors to train a flow on, of a density or a file: batches, and what is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glow.config import VectorDataConfig
from glow.data.read.batch import Share
from glow.data.read.manifest import Split
from glow.data.vectors.densities import density_of
from glow.randomness import generator

NUM_POINTS = 10_000


@dataclass(frozen=True)
class VectorBatch:
    """Vectors of one step, or of a part of it: float32 ``[N, D]``."""

    x: Tensor
    skipped: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Arguments of the flow's forward."""
        return (self.x,)

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self.x)


class VectorData:
    """The vectors that a config describes.

    Attributes:
        density: What they are drawn of, or None.
        points: Those that are trained on, float32 ``[N, D]``; where every step draws its own, what shows them.
        held_out: Others.

    Raises:
        ValueError: for a file that is no array of finite vectors, or of fewer than four.
    """

    def __init__(self, config: VectorDataConfig) -> None:
        self.config = config
        self.density = density_of(config)
        if self.density is None:
            assert config.path is not None
            points = read_points(Path(config.path))
            points = points[generator(config.seed, "split").permutation(len(points))]
            num_held_out = max(2, len(points) // 10)
            self.held_out, self.points = points[:num_held_out], points[num_held_out:]
        else:
            self.points = self._draw("points", config.num_points or NUM_POINTS)
            self.held_out = self._draw("validation", NUM_POINTS)

    @property
    def num_dims(self) -> int:
        """Return D."""
        return self.points.shape[1]

    @property
    def splits(self) -> dict[str, Split]:
        """Return what tells whether the vectors changed, as of a data set."""
        parts = {"train": self.points, "validation": self.held_out}
        # Fresh vectors are others than the points, but of a density that changes with them.
        return {name: Split(len(part), (), hashlib.sha256(part.tobytes()).hexdigest()) for name, part in parts.items()}

    def train_batches(
        self, batch_size: int, seed: int, images_seen: int = 0, share: Share | None = None
    ) -> Iterator[VectorBatch]:
        """Yield this process's parts of the global batches, without end, from position ``images_seen`` on.

        Fixed vectors come in an order of their own in each epoch, and batches go on over its end. The global batch
        depends on seed and position alone.
        """
        share = share or Share()
        share.check_batch_size(batch_size)
        slots = share.slots(batch_size)
        order = _Order(len(self.points), seed)
        while True:
            if self.config.fresh:
                batch = self._draw("fresh", batch_size, seed, images_seen // batch_size)
            else:
                batch = self.points[[order[position] for position in range(images_seen, images_seen + batch_size)]]
            yield VectorBatch(torch.from_numpy(batch[slots.start : slots.stop]))
            images_seen += batch_size

    def validation_batches(self, batch_size: int, share: Share | None = None) -> Iterator[VectorBatch]:
        """Yield this process's part of the held-out vectors, each once over all processes."""
        slots = (share or Share()).slots(len(self.held_out))
        for start in range(slots.start, slots.stop, batch_size):
            yield VectorBatch(torch.from_numpy(self.held_out[start : min(start + batch_size, slots.stop)]))

    def _draw(self, purpose: str, count: int, *index: int) -> np.ndarray:
        assert self.density is not None
        return self.density.sample(generator(self.config.seed, purpose, *index), count).astype(np.float32)


class _Order:
    """Which point is at a position of the training: epoch after epoch, each in an order of its own."""

    def __init__(self, num_points: int, seed: int) -> None:
        self.num_points = num_points
        self.seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def __getitem__(self, position: int) -> int:
        """Return the number of the point."""
        epoch, place = divmod(position, self.num_points)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = generator(self.seed, "shuffle", epoch).permutation(self.num_points)
        return int(self._permutation[place])


def read_points(path: Path) -> np.ndarray:
    """Read the vectors of a .npy file, as float32 ``[N, D]``.

    Raises:
        ValueError: when it is none, has another number of dimensions, fewer than four vectors, or NaN or infinities.
    """
    try:
        points = np.load(path)
        if not isinstance(points, np.ndarray) or points.ndim != 2 or not np.isrealobj(points):
            raise ValueError(f"not one array of real numbers, [N, D], but {getattr(points, 'shape', type(points))}")
        points = np.ascontiguousarray(points.astype(np.float32))
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise ValueError(f"{path}: not a .npy file of vectors: {error}") from error
    if len(points) < 4 or points.shape[1] < 1:
        raise ValueError(f"{path}: {list(points.shape)}: four vectors or more of one number or more are needed")
    broken = np.flatnonzero(~np.isfinite(points).all(1))
    if len(broken):
        raise ValueError(
            f"{path}: {len(broken)} of {len(points)} vectors have NaN or infinities, first row {broken[0]}"
        )
    return points
