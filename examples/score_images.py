"""Score your own pictures: ``python examples/score_images.py runs/photos FOLDER``.

Prints the ten pictures of the folder that the model finds least likely, with their bits/dim.
"""

from __future__ import annotations

import sys
from pathlib import Path

import glow


def main(run: str, folder: str) -> None:
    """Score all pictures of a folder."""
    model = glow.load(run)
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        sys.exit(f"{folder}: no .png, .jpg or .jpeg in it")
    bits = model.bits_per_dim(model.read_images(paths))
    for place in bits.argsort(descending=True)[:10].tolist():
        print(f"{bits[place]:.3f} bits/dim  {paths[place]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
