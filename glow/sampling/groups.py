"""Groups of one size keep results bitwise the same for any batch size and number of processes.

Convolutions over batches of different shapes differ in the last bits. So evaluation and sampling always compute groups
of ``group_size`` rows, and item ``i`` is always row ``i % group_size``. The other rows are padding.
"""

from __future__ import annotations

from collections.abc import Iterator

from glow.data.read.batch import Share


def group_size(image_shape: tuple[int, int, int]) -> int:
    """Return the number of rows of a group: 64, and fewer for images larger than 32x32."""
    _, height, width = image_shape
    return max(1, min(64, 2**16 // (height * width)))


def share_of(indices: range, size: int, share: Share) -> range:
    """Return the part of consecutive indices that belongs to a process: whole groups, except at the ends."""
    groups = list(aligned_ranges(indices, size))
    mine = [groups[slot] for slot in share.slots(len(groups))]
    return range(mine[0].start, mine[-1].stop) if mine else range(indices.start, indices.start)


def aligned_ranges(indices: range, size: int) -> Iterator[range]:
    """Cut consecutive indices at the multiples of ``size``."""
    for start in range(indices.start - indices.start % size, indices.stop, size):
        yield range(max(start, indices.start), min(start + size, indices.stop))
