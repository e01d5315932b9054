"""Image files that are damaged, huge, or of another kind; and upright ones."""

import io
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from pictures import MAKERS, encoded, make_zip, picture
from PIL import Image

from glow.data.images.decoding import ImageError, decode
from glow.data.prepare.sources import open_source


def png_header(width, height):
    """The beginning of a PNG that claims a size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
def test_truncated_image_is_refused_by_name(tmp_path, kind, fmt):
    data = encoded(picture(height=40, width=40), fmt)
    source = open_source(MAKERS[kind](tmp_path / "source", {f"cut.{fmt.lower()}": data[: len(data) * 2 // 3]}))
    with pytest.raises(ImageError, match=rf"source/cut.{fmt.lower()}: "):
        source.load(0)


@pytest.mark.parametrize("data", [b"", b"not an image at all", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_other_content_is_refused_without_an_address_in_the_message(data):
    with pytest.raises(ImageError, match=r"^x.png: not an image in one of the formats [A-Z, ]+$"):
        decode("x.png", data)


@pytest.mark.parametrize("side", [10_000, 20_000])  # 1.1 and 4.5 times Pillow's limit: it warns, it raises
def test_decompression_bomb_is_refused_before_it_is_decoded(side):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a process that does not run under pytest
        with pytest.raises(ImageError, match=r"bomb.png: refused as a possible decompression bomb"):
            decode("bomb.png", png_header(side, side))


@pytest.mark.parametrize("kind", MAKERS)
def test_file_of_absurd_size_is_refused_before_it_is_read(tmp_path, kind, monkeypatch):
    source = open_source(MAKERS[kind](tmp_path / "source", {"huge.png": bytes(10_000)}))
    monkeypatch.setenv("GLOW_MAX_SAMPLE_BYTES", "9999")
    with pytest.raises(ImageError, match=r"source/huge.png: has 10000 bytes uncompressed; at most 9999 are read"):
        source.load(0)


def test_damaged_zip_member_is_refused_by_name(tmp_path):
    path = tmp_path / "images.zip"
    data = encoded(picture(height=50, width=50))
    make_zip(path, {"a.png": data})
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"images.zip/a.png: cannot be read: Bad CRC-32"):
        open_source(str(path)).load(0)


def test_sixteen_bit_and_float_images_are_refused_by_mode():
    deep = Image.fromarray(np.zeros((4, 4), np.uint16))
    with pytest.raises(ImageError, match=r"deep.png: has mode I;16"):
        decode("deep.png", encoded(deep))
    with pytest.raises(ImageError, match=r"float.tif: has mode F"):
        decode("float.tif", encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))
    # Pillow cannot write 16-bit RGB; it reads it as 8 bits.
    header, data = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0), zlib.compress(bytes(7))
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    with pytest.raises(ImageError, match=r"rgb16.png: has mode RGB \(stored as RGB;16B\)"):
        decode("rgb16.png", png)


def test_exif_orientation_is_applied():
    image = Image.fromarray(picture())
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    upright = decode("x.png", encoded(image, exif=exif))
    np.testing.assert_array_equal(np.asarray(upright), np.rot90(picture(), -1))


def test_image_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ImageError("a.png", "is bad")))
    assert (str(error), error.name, error.reason) == ("a.png: is bad", "a.png", "is bad")


def test_png_whose_pixels_changed_is_refused():
    """Pillow decodes it: it compares no checksum of the pixels."""
    content = (
        b'\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x06\x00\x00\x00\x04\x08\x02\x00\x00\x00"f\xd9\x14\x00\x00\x00VIDAT'
        b"x\x9c\x01L\x00\xb3\xff\x01_\x82\xc2\xd9\xcf\xeb\x0f\xa3!\xd7\xd9\x82\xf8\xbd\x10E\xb8\xe8\x00\xcdN\xa9=}\n\x1d\xf0B\x13\xb6'"
        b";\x04;Q\xde,\x01xz2X\xd4\xeapX]\x19\x04p&\x08\x04\x01\xbf\x8e\x02\xd4!\x13\xca4\xdc\x1f\xa3Ga\x15\x96]\xef\xfa\x81\xba"
        b"\x10\x1f\xbf y\x12\xb7Hi\x00\x00\x00\x00IEND\xaeB`\x82"
    )
    assert np.asarray(Image.open(io.BytesIO(content))).shape == (4, 6, 3)
    with pytest.raises(ImageError, match=r"x\.png: cannot be read: its chunk IDAT does not have its checksum"):
        decode("x.png", content)
