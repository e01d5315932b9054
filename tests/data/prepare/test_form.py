"""Size, colour and transparency of the stored images."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import read_split
from pictures import make_folder, picture
from PIL import Image

from glow.config import PrepareRun
from glow.data.prepare.writer import prepare


def test_size_resizes_and_crops_the_centre(pets, tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200  # the centre
    square = np.full((16, 16, 3), 100, np.uint8)
    source = make_folder(tmp_path / "sizes", {"wide.png": wide, "square.png": square, "same.png": picture(1, 4, 4)})
    dataset = prepare(replace(pets, source=[source], size=4))
    assert dataset.shape == (3, 4, 4)
    stored = read_split(pets.output, "train")
    np.testing.assert_allclose(stored["wide"][0][:, 1:3], 200, atol=3)  # the filter overshoots at an edge
    np.testing.assert_array_equal(stored["square"][0], np.full((4, 4, 3), 100))
    np.testing.assert_array_equal(stored["same"][0], picture(1, 4, 4))


def test_resizing_is_antialiased(pets, tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 254
    prepare(replace(pets, source=[make_folder(tmp_path / "stripes", {"a.png": stripes})], size=(8, 4)))
    pixels = read_split(pets.output, "train")["a"][0]
    assert pixels.shape == (8, 4, 3)
    assert np.abs(pixels.astype(int) - 127).max() <= 10


def test_colour_is_kept_or_converted(pets, tmp_path):
    grey = make_folder(tmp_path / "grey", {"a.png": picture(1, grey=True), "b.png": picture(2, grey=True)})
    for color, shape in [("keep", (1, 4, 6)), ("grey", (1, 4, 6)), ("rgb", (3, 4, 6))]:
        run = replace(pets, source=[grey], color=color, output=str(tmp_path / "out" / color))
        assert prepare(run).shape == shape
        expected = picture(1, grey=True)
        stored = read_split(run.output, "train")["a"][0]
        np.testing.assert_array_equal(stored, np.stack([expected] * 3, axis=-1) if color == "rgb" else expected)
    assert prepare(replace(pets, color="grey")).shape == (1, 4, 6)


def test_palette_and_profile_leave_nothing_but_pixels(pets, tmp_path):
    image = Image.fromarray(picture(1)).quantize(8)
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=b"\x00\x80", icc_profile=b"profile")
    prepare(replace(pets, source=[make_folder(tmp_path / "palette", {"a.png": stream.getvalue()})]))
    alpha = np.array([0, 128] + [255] * 254)[np.asarray(image)][:, :, None] / 255
    expected = np.asarray(image.convert("RGB")) * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(read_split(pets.output, "train")["a"][0], expected, atol=1)
    shard = (Path(pets.output) / "train-00000.tar").read_bytes()
    assert b"tRNS" not in shard
    assert b"iCCP" not in shard


def test_gigantic_size_is_refused(pets):
    with pytest.raises(
        ValueError,
        match=r"size: 100000 is not allowed; give SIZE or \[HEIGHT, WIDTH\], at least 1 and at most \d+ pixels",
    ):
        replace(pets, size=100_000)


def test_transparent_pixels_become_white(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:2] = (10, 20, 30, 255)
    pixels[2:] = (99, 98, 97, 0)
    Image.fromarray(pixels).save(folder / "a.png")
    prepare(PrepareRun([str(folder)], str(tmp_path / "data"), num_workers=0))
    ((stored, _),) = read_split(tmp_path / "data", "train").values()
    assert (stored[:2] == (10, 20, 30)).all()
    assert (stored[2:] == 255).all()
