"""Sheets of images with captions, and animations."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from glow.sampling.images import MAX_NAME

MIN_SIDE = 64  # pixels of a shown image, at least
GAP = 6
TEXT_SIZE = 13


def enlarged(image: Tensor, min_side: int = MIN_SIDE) -> Image.Image:
    """Return a uint8 image ``[C, H, W]`` in RGB, enlarged by a whole factor to at least ``min_side`` pixels."""
    factor = math.ceil(min_side / max(image.shape[1:]))
    pixels = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    pixels = pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels[:3]
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def sheet(
    rows: Sequence[Sequence[Tensor]],
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Lay rows of uint8 images ``[C, H, W]`` of one size on white, with names of rows and columns.

    Args:
        rows: The images.
        row_names: Left of each row.
        column_names: Above each column.
        captions: Below each image.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    short = [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in row_names]
    tile = enlarged(rows[0][0])
    texts = [*column_names, *(text for line in captions for text in line)]
    width = max([tile.width, *(math.ceil(font.getlength(text)) for text in texts)]) + GAP
    height = tile.height + (TEXT_SIZE + 4 if captions else 0) + GAP
    left = max([0, *(math.ceil(font.getlength(name)) + 2 * GAP for name in short)])
    top = TEXT_SIZE + 2 * GAP if column_names else GAP
    columns = max(len(row) for row in rows)
    page = Image.new("RGB", (left + columns * width + GAP, top + len(rows) * height), "white")
    draw = ImageDraw.Draw(page)
    for number, name in enumerate(column_names):
        draw.text((left + number * width + (width + GAP) / 2, top / 2), name, "black", font, anchor="mm")
    for y, row in enumerate(rows):
        if y < len(short):
            draw.text((left - GAP, top + y * height + tile.height / 2), short[y], "black", font, anchor="rm")
        for x, image in enumerate(row):
            place = left + x * width + (width + GAP - tile.width) // 2, top + y * height
            page.paste(enlarged(image), place)
            if captions:
                middle = place[0] + tile.width / 2, place[1] + tile.height + 2
                draw.text(middle, captions[y][x], "#444444", font, anchor="ma")
    return page


def column_of(x: int, y: int, columns: int, image: Tensor) -> int | None:
    """Return the number of the image that a pixel of a plain ``sheet`` of images like ``image`` shows, or None."""
    tile = enlarged(image)
    column, row = (x - GAP // 2) // (tile.width + GAP), (y - GAP // 2) // (tile.height + GAP)
    return row * columns + column if 0 <= column < columns and row >= 0 else None


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as PNG."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def gif_bytes(images: Tensor, seconds_each: float = 0.1) -> bytes:
    """Return uint8 images ``[N, C, H, W]`` as a GIF that goes there and back for ever."""
    frames = [enlarged(image, 2 * MIN_SIDE) for image in images]
    frames += frames[-2:0:-1]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 * seconds_each), loop=0)
    return content.getvalue()
