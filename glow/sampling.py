"""Seeds to latents to images: image i depends on (seed, i) alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid

from glow.groups import aligned_ranges, group_size
from glow.images import quantize
from glow.model import Glow
from glow.randomness import generator


def latent_noise(seed: int, index: int, num_dims: int) -> np.ndarray:
    """Return the standard normal latents of image ``index``, float32 ``[num_dims]``."""
    return generator(seed, "sample", index).standard_normal(num_dims, dtype=np.float32)


@torch.no_grad()
def sample_images(
    model: Glow, indices: range, temperature: float | Sequence[float], seed: int, batch_size: int = 64
) -> Iterator[Tensor]:
    """Yield the uint8 images ``[n, C, H, W]`` of consecutive indices, ``batch_size`` at a time.

    Image i is always computed as row ``i % group`` of a group, so that it is bitwise the same whatever range and batch
    size it is asked for with.
    """
    parameter = next(model.parameters())
    group = group_size(model.image_shape)
    images: list[Tensor] = []
    for chunk in aligned_ranges(indices, group):
        noise = torch.zeros(group, model.num_dims, dtype=parameter.dtype)
        for index in chunk:
            noise[index % group] = torch.from_numpy(latent_noise(seed, index, model.num_dims))
        rows = slice(chunk.start % group, chunk.start % group + len(chunk))
        x = model.decode(model.scale_noise(noise.to(parameter.device), temperature))[rows]
        for row in (~x.isfinite().flatten(1).all(1)).nonzero().flatten().tolist():
            warnings.warn(f"image {chunk[row]} at temperature {temperature} is not finite", stacklevel=2)
        images.extend(quantize(x, model.config.num_bits).cpu())
        while len(images) >= batch_size:
            yield torch.stack(images[:batch_size])
            images = images[batch_size:]
    if images:
        yield torch.stack(images)


def image_grid(images: Tensor) -> np.ndarray:
    """Arrange uint8 images ``[n, C, H, W]`` in a grid about as wide as high: uint8 ``[H, W, 3]``.

    Images smaller than 48 pixels are enlarged by a whole factor, so that a person can see them.
    """
    factor = max(1, 48 // max(images.shape[2:]))
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = make_grid(images, nrow=math.ceil(math.sqrt(len(images))), padding=max(1, factor // 2), pad_value=127)
    return grid.permute(1, 2, 0).numpy()
