"""Seeds to latents to images, or to vectors: image i depends on (seed, i) alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from glow.console import Progress
from glow.execution.graphs import CudaGraphs
from glow.models.flow import Flow
from glow.models.glow import Glow
from glow.models.images import quantize
from glow.randomness import generator
from glow.sampling.groups import aligned_ranges, group_size

Temperature = float | Sequence[float]  # one, or one for each level

MAX_SHOWN = 20  # names of classes in an error
MAX_NAME = 24  # letters of a name beside a grid


def latent_noise(seed: int, index: int, num_dims: int) -> np.ndarray:
    """Return the standard normal latents of image ``index``, float32 ``[num_dims]``."""
    return generator(seed, "sample", index).standard_normal(num_dims, dtype=np.float32)


@dataclass(frozen=True)
class Draw:
    """What decides an image besides its number: the seed, and the class (None: the classes in turn)."""

    seed: int
    label: int | None = None

    def class_of(self, index: int, num_classes: int) -> int:
        """Return the class of image ``index``; 0 for a model without classes."""
        return index % max(1, num_classes) if self.label is None else self.label

    def num_rows(self, num_classes: int, num_images: int) -> int:
        """Return the rows of a grid: one for each class if the classes take turns; 0 for any number of rows."""
        return num_classes if self.label is None and num_images >= num_classes else 0

    def shown(self, images: Tensor, num_classes: int, temperature: Temperature) -> Tensor:
        """Return the images of a grid: whole rows of classes; at temperature 0, where all are alike, one of each."""
        if np.max(temperature) == 0:
            return images[: max(1, num_classes) if self.label is None else 1]
        return images[: len(images) - len(images) % max(1, self.num_rows(num_classes, len(images)))]

    def check(self, num_classes: int) -> None:
        """Raise a ValueError if a model with so many classes does not have this one."""
        if self.label is not None and self.label >= num_classes:
            has = f"classes 0 to {num_classes - 1}" if num_classes else "no classes"
            raise ValueError(f"label: {self.label}, but the model has {has}")


def check_temperatures(temperatures: Sequence[Temperature], num_levels: int) -> None:
    """Raise a ValueError for a list of another number of temperatures than the model has levels."""
    for temperature in temperatures:
        if isinstance(temperature, Sequence) and len(temperature) != num_levels:
            raise ValueError(
                f"temperatures: {list(temperature)} has {len(temperature)} numbers, but the model has {num_levels} "
                "levels; give one number for each"
            )


def number_of_class(label: int | str | None, names: Sequence[str] | None) -> int | None:
    """Return the number of a class that is given by its number or by one of ``names``; None stays None.

    Raises:
        ValueError: when there is no such name.
    """
    if not isinstance(label, str):
        return label
    if names is None:
        raise ValueError(f"label: {label!r}, but the checkpoint holds no names of classes; give a number")
    if label not in names:
        shown = ", ".join([*names[:MAX_SHOWN], *["..."] * (len(names) > MAX_SHOWN)])
        raise ValueError(f"label: {label!r} is none of the classes, which are {shown}")
    return names.index(label)


@torch.no_grad()
def sample_images(
    model: Glow, indices: range, temperature: Temperature, draw: Draw, batch_size: int = 64
) -> Iterator[Tensor]:
    """Yield the uint8 images ``[n, C, H, W]`` of consecutive indices, ``batch_size`` at a time.

    Image i is always row ``i % group`` of a group. So it is bitwise the same for any range and any batch size.

    Raises:
        ValueError: when the model does not have the class of ``draw``.
    """
    draw.check(model.num_classes)
    parameter = next(model.parameters())
    group = group_size(model.image_shape)
    decode = decoder(model)
    images: list[Tensor] = []
    for chunk in aligned_ranges(indices, group):
        noise = torch.zeros(group, model.num_dims, dtype=parameter.dtype)
        for index in chunk:
            noise[index % group] = torch.from_numpy(latent_noise(draw.seed, index, model.num_dims))
        first = chunk.start - chunk.start % group
        labels = [draw.class_of(index, model.num_classes) for index in range(first, first + group)]
        rows = slice(chunk.start % group, chunk.start % group + len(chunk))
        latents = model.scale_noise(noise.to(parameter.device), temperature)
        x = decode(*latents, *([torch.tensor(labels).to(parameter.device)] if model.num_classes else []))[rows]
        for row in (~x.isfinite().flatten(1).all(1)).nonzero().flatten().tolist():
            warnings.warn(f"image {chunk[row]} at temperature {temperature} is not finite", stacklevel=2)
        images.extend(quantize(x, model.config.num_bits).cpu())
        while len(images) >= batch_size:
            yield torch.stack(images[:batch_size])
            images = images[batch_size:]
    if images:
        yield torch.stack(images)


def sample_temperatures(
    model: Glow,
    indices: range,
    temperatures: Sequence[Temperature],
    draw: Draw,
    batch_size: int = 64,
    is_shown: bool = True,
) -> Iterator[tuple[Temperature, Tensor]]:
    """Yield each temperature and its images, uint8 ``[n, C, H, W]``, and show the progress."""
    with Progress(len(indices) * len(temperatures), "image", is_shown=is_shown) as progress:
        for temperature in temperatures:
            batches = [torch.empty(0, *model.image_shape, dtype=torch.uint8)]
            for batch in sample_images(model, indices, temperature, draw, batch_size):
                batches.append(batch)
                progress.update(len(batch))
            yield temperature, torch.cat(batches)


def decoder(model: Glow) -> Callable[..., Tensor]:
    """Return a function that takes latents, and labels if the model does, and decodes them; on a GPU as a CUDA graph.

    Use it without gradients, while the weights stay as they are.
    """

    def decode(*inputs: Tensor) -> list[Tensor]:
        num_levels = len(model.latent_shapes)
        return [model.decode(inputs[:num_levels], *inputs[num_levels:])]

    # The inverse of a mixture is a search that ends when all values are found.
    can_be_recorded = next(model.parameters()).is_cuda and model.config.coupling != "mixture"
    run = CudaGraphs(decode) if can_be_recorded else decode
    return lambda *inputs: run(*inputs)[0]


@torch.no_grad()
def sample_vectors(flow: Flow, count: int, seed: int) -> np.ndarray:
    """Draw vectors of a flow, float32 ``[count, D]``; vector i depends on the seed and i, up to rounding."""
    noise = generator(seed, "sample").standard_normal((count, flow.num_dims), dtype=np.float32)
    like = next(flow.parameters())
    return flow.sample(torch.from_numpy(noise).to(like)).float().cpu().numpy()


def image_grid(images: Tensor, num_rows: int = 0) -> np.ndarray:
    """Arrange uint8 images ``[n, C, H, W]`` in a grid: uint8 ``[H, W, 3]``.

    Images smaller than 48 pixels are enlarged by a whole factor.

    Args:
        images: The images.
        num_rows: Number of rows; image i is in row ``i % num_rows``. 0: fill row by row, about as wide as high.
    """
    from torchvision.utils import make_grid  # it takes two seconds, which glow.load needs not wait for

    if num_rows:
        blanks = images.new_full((-len(images) % num_rows, *images.shape[1:]), 127)
        columns = torch.cat([images, blanks]).unflatten(0, (-1, num_rows))
        images = columns.transpose(0, 1).flatten(0, 1)
    factor = max(1, 48 // max(images.shape[2:]))
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    num_columns = len(images) // num_rows if num_rows else math.ceil(math.sqrt(len(images)))
    grid = make_grid(images, nrow=num_columns, padding=max(1, factor // 2), pad_value=127)
    return grid.permute(1, 2, 0).numpy()


def name_rows(grid: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Write the name of each row beside a grid, uint8 ``[H, W, 3]``."""
    height = len(grid) / len(names)
    font = ImageFont.load_default(max(8, min(16, int(0.6 * height))))
    shown = [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in names]
    width = math.ceil(max(font.getlength(name) for name in shown)) + 8
    margin = Image.new("RGB", (width, len(grid)), "white")
    for number, name in enumerate(shown):
        ImageDraw.Draw(margin).text((width - 4, (number + 0.5) * height), name, "black", font, anchor="rm")
    return np.concatenate([np.asarray(margin), grid], axis=1)
