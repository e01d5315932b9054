"""Windows that are cut out of images of many sizes."""

from __future__ import annotations

import numpy as np


def window(image: np.ndarray, size: int | None, rng: np.random.Generator | None = None) -> np.ndarray:
    """Cut ``size`` x ``size`` pixels out of an image ``[C, H, W]``: at random, or without ``rng`` at the centre.

    Raises:
        ValueError: when the image is smaller.
    """
    if size is None:
        return image
    _, height, width = image.shape
    if min(height, width) < size:
        raise ValueError(f"an image is {height} x {width} (height x width), too small for windows of {size}")
    rest = (height - size, width - size)
    top, left = (side // 2 for side in rest) if rng is None else rng.integers(rest, endpoint=True).tolist()
    return image[:, top : top + size, left : left + size]
