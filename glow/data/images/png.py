"""Checks of a PNG that Pillow does not make: it decodes many damaged files without an error."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# First column, first row, step of columns, step of rows.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
MODES = {(8, 0): "L", (8, 2): "RGB"}  # by bits and colour type
SAMPLES_PER_PIXEL = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type


def decode_png(content: bytes, shape: tuple[int, int, int], largest: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a PNG, grey or RGB with 8 bits a channel, to uint8 ``[C, H, W]``.

    Args:
        content: The file.
        shape: Channels, and the least height and width.
        largest: The greatest height and width. Default: the least.

    Raises:
        ValueError: when it has another shape.
        OSError, SyntaxError, ValueError, struct.error: when it is damaged.
    """
    channels, least_height, least_width = shape
    max_height, max_width = largest or (least_height, least_width)
    header, parts = b"", []
    for kind, data in _chunks(content):
        if kind == b"IHDR":
            header = data
        elif kind == b"IDAT":
            parts.append(data)
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    # The header is checked first: a stranger's shard must not make us decode a huge image.
    fits = least_height <= height <= max_height and least_width <= width <= max_width
    mode = MODES.get((bits, colour))
    if not fits or mode is None or len(mode) != (1 if channels == 1 else 3):
        found = f"{width}x{height} {mode or f'colour type {colour} with {bits} bits'}"
        to = f" to {list(largest)}" if largest else ""
        raise ValueError(f"it is {found}, but dataset.json says shape {list(shape)}{to}")
    # Pillow's decoder alone: opening the file with all its metadata takes as long again.
    image = Image.frombytes(mode, (width, height), b"".join(parts), "zip", mode, interlaced)
    pixels = np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(height, width, channels)
    if not pixels[-1].any() or interlaced:
        check_complete(content)
    return pixels.transpose(2, 0, 1)


def check_pixels(content: bytes) -> None:
    """Raise a SyntaxError when the data of the pixels do not have their checksum, which Pillow does not compare.

    Chunks that an image does not need may be damaged: their names begin with a small letter.
    """
    position = len(SIGNATURE)
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        end = position + 8 + length
        kind, checksum = content[position + 4 : position + 8], content[end : end + 4]
        if kind.isupper() and zlib.crc32(content[position + 4 : end]).to_bytes(4, "big") != checksum:
            raise SyntaxError(f"its chunk {kind.decode()} does not have its checksum")
        position = len(content) if kind == b"IEND" else end + 4


def check_complete(content: bytes) -> None:
    """Raise a SyntaxError when a PNG holds fewer rows than it says. Pillow leaves these black.

    So it is enough to ask where the last row is black, and where the image is interlaced.

    Source: PNG specification, third edition, sections 8 and 10.
    """
    needed, decompressor = 0, zlib.decompressobj()
    for kind, data in _chunks(content):
        if kind == b"IHDR":
            width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data)
            for left, top, right, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
                columns, rows = -(-max(0, width - left) // right), -(-max(0, height - top) // down)
                needed += rows * (1 + (columns * bits * SAMPLES_PER_PIXEL[colour] + 7) // 8) if columns else 0
        elif kind == b"IDAT" and needed > 0:
            try:
                needed -= len(decompressor.decompress(data, needed))
            except zlib.error as error:
                raise SyntaxError(f"its data are damaged: {error}") from error
    if needed > 0:
        raise SyntaxError(f"its data end {needed} bytes before the last pixel")


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and data of the chunks up to the end mark; raise a SyntaxError at a wrong checksum.

    Source: PNG specification, third edition, section 5.3.
    """
    position = len(SIGNATURE)
    while content[position + 4 : position + 8] != b"IEND":
        (length,) = struct.unpack_from(">I", content, position)
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", content, end)
        if zlib.crc32(content[position + 4 : end]) != checksum:
            raise SyntaxError("a chunk of the PNG does not have its checksum")
        yield content[position + 4 : position + 8], content[position + 8 : end]
        position = end + 4
