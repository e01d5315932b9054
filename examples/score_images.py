"""Score your own pictures: ``python examples/score_images.py runs/photos FOLDER``.

Prints the ten pictures of the folder that the model finds least likely, with their bits/dim.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import glow


def read(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Return a picture as uint8 ``[C, H, W]``, cropped and resized as the prepare stage does."""
    channels, height, width = shape
    picture = Image.open(path).convert("L" if channels == 1 else "RGB")
    picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)


def main(run: str, folder: str) -> None:
    """Score all pictures of a folder."""
    model = glow.load(run)
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        sys.exit(f"{folder}: no .png, .jpg or .jpeg in it")
    images = np.stack([read(path, model.glow.image_shape) for path in paths])
    bits = model.bits_per_dim(images)
    for place in bits.argsort(descending=True)[:10].tolist():
        print(f"{bits[place]:.3f} bits/dim  {paths[place]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
