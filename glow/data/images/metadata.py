"""Take the metadata of an image file for what they are: they may turn an image, but never make it unreadable."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

from PIL import ExifTags, Image

# By the EXIF orientation; 1 is upright.
TRANSPOSITIONS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
EXIF = b"Exif\0\0"
START_OF_SCAN = 0xDA
# Application segments and comments of a JPEG, without JFIF (APP0) and Adobe (APP14), which say how colours are coded.
JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF orientation says; as it is when the orientation cannot be read."""
    # Not ImageOps.exif_transpose: it writes the EXIF anew, and fails at any entry that it cannot write.
    method = TRANSPOSITIONS.get(orientation(image))
    return image if method is None else image.transpose(method)


def orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation of an image; None when it cannot be read."""
    found = None
    with contextlib.suppress(Exception):  # Pillow raises errors of many types
        found = image.getexif().get(ExifTags.Base.Orientation)
    # Pillow 12 reads no entry behind one that it cannot read.
    return _orientation_in(image.info.get("exif", b"")) if found is None else found


def _orientation_in(exif: bytes) -> int | None:
    """Source: TIFF 6.0, section 2: a directory of entries of 12 bytes."""
    tiff = exif.removeprefix(EXIF)
    byte_order = {b"II": "<", b"MM": ">"}.get(tiff[:2], "<")
    try:
        (start,) = struct.unpack_from(f"{byte_order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{byte_order}H", tiff, start)
        entries = (struct.unpack_from(f"{byte_order}HHIH", tiff, start + 2 + 12 * number) for number in range(count))
        return next((value for tag, _, _, value in entries if tag == ExifTags.Base.Orientation), None)
    except struct.error:  # cut
        return None


def without_metadata(data: bytes) -> tuple[bytes, bytes]:
    """Return a JPEG or PNG without its metadata, and its EXIF (or nothing); another file as it is."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _bare_jpeg(data)
        if data.startswith(b"\x89PNG"):
            return _bare_png(data)
    except (IndexError, struct.error):  # cut
        pass
    return data, b""


def _bare_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """Source: ITU-T T.81, B.1.1.4."""
    kept, exif, position = [data[:2]], b"", 2
    while data[position] == 0xFF and data[position + 1] != START_OF_SCAN:
        (length,) = struct.unpack_from(">H", data, position + 2)
        segment = data[position : position + 2 + length]
        if segment[1] not in JPEG_METADATA:
            kept.append(segment)
        elif segment[4:].startswith(EXIF):
            exif = segment[4:]
        position += 2 + length
    return b"".join([*kept, data[position:]]), exif


def _bare_png(data: bytes) -> tuple[bytes, bytes]:
    """Source: PNG specification, third edition, section 5.3: a small first letter marks what is not needed."""
    kept, exif, position = [data[:8]], b"", 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        chunk = data[position : position + 12 + length]
        if chunk[4:5].isupper() or chunk[4:8] == b"tRNS":  # transparency belongs to the pixels
            kept.append(chunk)
        elif chunk[4:8] == b"eXIf":
            exif = EXIF + chunk[8:-4]
        position += 12 + length
    return b"".join(kept), exif
