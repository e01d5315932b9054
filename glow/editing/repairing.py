"""What the stage edit writes of repaired images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from glow.config import EditRun
from glow.console import track
from glow.data.images.decoding import ImageForm, decode
from glow.editing.choosing import Data
from glow.editing.pictures import png_bytes, sheet
from glow.editing.repair import NUM_CHAINS, OBSERVED, inpaint, restore
from glow.editing.tasks import Result, chosen

HALVES = ("left", "right", "top", "bottom", "center")


def mask_of(text: str, image_shape: tuple[int, int, int]) -> Tensor:
    """Return which numbers of an image are missing, bool ``[C, H, W]``.

    Args:
        text: left, right, top, bottom or center; or an image file, whose bright pixels are missing.
        image_shape: C, H, W.

    Raises:
        ValueError: for another word, or a file that is no image.
    """
    channels, height, width = image_shape
    mask = torch.zeros(height, width, dtype=torch.bool)
    rows, columns = slice(None), slice(None)
    if text in HALVES:
        if text in ("top", "bottom"):
            rows = slice(None, height // 2) if text == "top" else slice(height // 2, None)
        elif text in ("left", "right"):
            columns = slice(None, width // 2) if text == "left" else slice(width // 2, None)
        else:
            rows, columns = (slice(size // 4, size - size // 4) for size in (height, width))
        mask[rows, columns] = True
    elif Path(text).is_file():
        pixels = ImageForm.of_shape((1, height, width)).apply(text, decode(text, Path(text).read_bytes()))
        mask = torch.from_numpy(pixels.copy()).view(height, width) > 127
    else:
        raise ValueError(f"mask: {text} is not allowed; give {', '.join(HALVES[:-1])}, center or a file")
    return mask.expand(channels, -1, -1)


def write_repairs(data: Data, config: EditRun) -> Result:
    """Fill in the missing pixels of images, or remove their noise."""
    model, images = data.model, chosen(data, config, 2)
    labels = images.given_to(model)
    mask = mask_of(config.mask, model.glow.image_shape) if config.what == "inpaint" else None
    rows, captions, facts, lines = [], [], [], []
    for number, image in enumerate(track(images.images, len(images.images), "image", config.what)):
        label = None if labels is None else int(labels[number])
        if mask is None:
            found = restore(model, image, config.sigma, label, config.seed, config.num_draws, config.observed)
            observe, fill = OBSERVED[config.observed]
            given = fill(observe(image[None].float()), len(image))[0].round().to(torch.uint8)
        else:
            found = inpaint(model, image, mask, label, config.seed, config.num_draws)
            given = image.masked_fill(mask, 127)
        figures = {
            "acceptance": found.acceptance,
            "effective_samples": found.effective_samples,
            "r_hat": found.r_hat,
        }
        mixed = f"accepted {found.acceptance:.0%}", f"ESS {found.effective_samples:.0f}", f"R-hat {found.r_hat:.3f}"
        rows.append([image, given, found.likeliest, found.mean, *found.samples])
        captions.append([*mixed, *[""] * (NUM_CHAINS + 1)])
        facts.append({"name": images.names[number], **figures})
        lines.append(f"{images.names[number]}: {', '.join(mixed)}")
    heads = ["image", "given", "MAP", "mean", *(f"draw {number + 1}" for number in range(NUM_CHAINS))]
    return Result({f"{config.what}.png": png_bytes(sheet(rows, (), heads, captions))}, {"images": facts}, lines)
