"""Metadata turn an image; whatever else stands in them, the pixels are read."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image

from glow.data.images.decoding import ImageError, decode
from glow.data.images.metadata import without_metadata


def with_exif(entries, orientation=6):
    """A JPEG of 4 x 6 pixels with these entries of EXIF, each (tag, type, count, 4 bytes), and an orientation."""
    entries = sorted([*entries, (0x0112, 3, 1, struct.pack("<HH", orientation, 0))])
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + directory + bytes(4)
    return encoded(picture(), "JPEG", exif=exif)


ODD = {
    "a text that is binary": (0x010E, 2, 4, b"\xff\xfe\xfd\xfc"),
    "a type that does not exist": (0x010F, 99, 1, bytes(4)),
    "a float that is not a number": (0x9201, 11, 1, b"\xff\xff\xff\xff"),
    "a count beyond the file": (0x010F, 2, 2**31, b"\xf0\xff\xff\x7f"),
    "a resolution without numbers": (0x011A, 5, 0, bytes(4)),
    "a version as a number": (0x9000, 4, 1, b"0232"),
    "a directory that is none": (0x8769, 2, 3, b"ab\0\0"),
    "a private entry": (0xEA1C, 7, 4, b"\x1c\xea\0\0"),
}


@pytest.mark.parametrize("entry", ODD.values(), ids=ODD)
def test_odd_entry_of_exif_does_not_hinder_the_orientation(entry):
    plain = Image.open(io.BytesIO(with_exif([], orientation=1)))
    turned = decode("x.jpg", with_exif([entry]))
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(np.asarray(plain), -1))


def test_resolution_of_one_number_does_not_hinder_the_orientation():
    """Pillow opens no JPEG whose resolution is an empty list."""
    entries = [(0x011A, 2, 1, bytes(4)), (0x0128, 3, 1, b"\2\0\0\0")]
    turned = decode("x.jpg", with_exif(entries))
    assert turned.size == (4, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_as_pillow_applies_it(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for fmt in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if fmt == "WEBP" else {}
        image = decode("x", encoded(picture(), fmt, exif=exif, **options))
        right = {
            1: lambda a: a,
            2: np.fliplr,
            3: lambda a: np.rot90(a, 2),
            4: np.flipud,
            5: lambda a: a.swapaxes(0, 1),
            6: lambda a: np.rot90(a, -1),
            7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
            8: np.rot90,
        }[orientation](picture())
        np.testing.assert_array_equal(np.asarray(image), right)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"pHYs", b"\0"),
        chunk(b"zTXt", b"key\0\x09what"),
        chunk(b"iCCP", b"profile\0\x07what"),
        chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(3 * 2**20))),
        chunk(b"tEXt", b"key\0text")[:-1] + b"?",
    ],
    ids=["cut pHYs", "zTXt", "iCCP", "long text", "checksum of tEXt"],
)
def test_odd_chunk_of_a_png_does_not_hinder_the_pixels(odd):
    exif = Image.Exif()
    exif[0x0112] = 6
    png = encoded(picture(), exif=exif)
    image = decode("x.png", png[:33] + odd + png[33:])
    np.testing.assert_array_equal(np.asarray(image), np.rot90(picture(), -1))


def test_transparency_survives_without_metadata():
    image = Image.fromarray(picture()).quantize(8)
    png = encoded(image, transparency=b"\0\x80")
    assert without_metadata(png)[0].count(b"tRNS") == 1


def mutated(data, rng):
    """Change a few bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        changed[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(changed)


def test_mutated_metadata_of_intact_images_never_hinder_the_pixels():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A], exif[0x0128] = 6, "maker", 72.0, 2
    jpeg, png = encoded(picture(), "JPEG"), encoded(picture())
    rng = random.Random(0)
    for _ in range(1000):
        segment = exif.tobytes()[:6] + mutated(exif.tobytes()[6:], rng)
        kind, body = rng.choice([(b"eXIf", exif.tobytes()[6:]), (b"zTXt", b"key\0\0" + zlib.compress(b"text"))])
        files = {
            jpeg: jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment + jpeg[2:],
            png: png[:33] + chunk(kind, mutated(body, rng)) + png[33:],
        }
        for plain, changed in files.items():
            pixels, image = np.asarray(Image.open(io.BytesIO(plain))), np.asarray(decode("x", changed))
            turned = [np.rot90(side, turn) for side in (pixels, pixels[::-1]) for turn in range(4)]
            assert any(np.array_equal(image, one) for one in turned)


def test_damaged_pixels_are_still_refused():
    for fmt in ("PNG", "JPEG"):
        data = encoded(picture(height=40, width=40), fmt)
        with pytest.raises(ImageError, match="cannot be read"):
            decode("x", data[: len(data) // 2])
