"""Batches of vectors from a density or a file, and held-out vectors."""

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
    """Vectors of one step, or the part of them that one process holds: float32 ``[N, D]``."""

    x: Tensor
    skipped: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of the flow's forward."""
        return (self.x,)

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self.x)


class VectorData:
    """The vectors that a config describes.

    Attributes:
        density: The density they are drawn from, or None for a file.
        points: The vectors to train on, float32 ``[N, D]``. With ``fresh``, every step draws new ones, and these serve
            for pictures and for the hash.
        held_out: Other vectors, for validation, float32 ``[M, D]``.

    Raises:
        ValueError: when the file is not an array of at least four finite vectors.
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
        """Return sizes and hashes of the vectors, in the form of the splits of a data set."""
        parts = {"train": self.points, "validation": self.held_out}
        # Fresh vectors differ from the points. But another density has other points, so the hash still notices it.
        return {name: Split(len(part), (), hashlib.sha256(part.tobytes()).hexdigest()) for name, part in parts.items()}

    def train_batches(
        self, batch_size: int, seed: int, images_seen: int = 0, share: Share | None = None
    ) -> Iterator[VectorBatch]:
        """Yield the parts of the global batches that belong to this process, without end, from ``images_seen`` on.

        Fixed vectors are shuffled anew in every epoch, and a batch may span two epochs. The global batch depends on
        seed and position only.

        Raises:
            ValueError: when the batch is smaller than the number of processes.
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
        """Yield the part of the held-out vectors that belongs to this process."""
        slots = (share or Share()).slots(len(self.held_out))
        for start in range(slots.start, slots.stop, batch_size):
            yield VectorBatch(torch.from_numpy(self.held_out[start : min(start + batch_size, slots.stop)]))

    def _draw(self, purpose: str, count: int, *index: int) -> np.ndarray:
        assert self.density is not None
        return self.density.sample(generator(self.config.seed, purpose, *index), count).astype(np.float32)


class _Order:
    """The endless sequence of point numbers, shuffled anew in every epoch."""

    def __init__(self, num_points: int, seed: int) -> None:
        self.num_points = num_points
        self.seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def __getitem__(self, position: int) -> int:
        """Return the number of the point at a position."""
        epoch, place = divmod(position, self.num_points)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = generator(self.seed, "shuffle", epoch).permutation(self.num_points)
        return int(self._permutation[place])


def read_points(path: Path) -> np.ndarray:
    """Read the vectors of a .npy file, as float32 ``[N, D]``.

    Raises:
        ValueError: when it is not such a file, has fewer than four vectors, or NaN or infinite numbers.
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
