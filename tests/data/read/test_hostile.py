"""Damaged and hostile files of a data set: one line that names the file, within little time and memory."""

import json
import os
import struct
import zlib

import numpy as np
import pytest
from conftest import write_images
from foreign import as_first_version
from pictures import encoded, picture
from PIL import Image

from glow.config import PrepareRun
from glow.data.images.decoding import ImageError, decode
from glow.data.images.png import check_complete, decode_png
from glow.data.prepare.writer import prepare
from glow.data.read.index import read_index
from glow.data.read.manifest import load_dataset
from glow.data.read.reader import SplitReader


@pytest.fixture
def small(tmp_path):
    """A data set of 8 images, 6 of them for training, in shards of 3."""
    output = tmp_path / "small"
    prepare(PrepareRun([str(write_images(tmp_path / "images", 8))], str(output), "2", shard_size=3, num_workers=0))
    return output


@pytest.fixture
def older(small):
    return as_first_version(small)


def change(directory, *path_and_value):
    """Set a value in dataset.json."""
    manifest = json.loads((directory / "dataset.json").read_text())
    *path, last, value = path_and_value
    place = manifest
    for part in path:
        place = place[part]
    place[last] = value
    (directory / "dataset.json").write_text(json.dumps(manifest))


WRONG = [None, True, 1.5, -1, 0, "3", [], {}, [[]], 10**30, float("nan"), "x" * 1000]
PLACES = [
    "name",
    "shape",
    "shape 1",
    "bit_depth",
    "classes",
    "classes 0",
    "splits",
    "splits train",
    "splits train num_images",
    "splits train shards",
    "splits train shards 0",
    "splits train shards 0 path",
    "splits train shards 0 num_images",
    "splits train shards 0 num_bytes",
    "splits train shards 0 sha256",
    "splits train sha256",
    "preparation",
    "left_out",
]
RIGHT = {
    "name": ("3", "x" * 1000),
    "classes": (None,),
    "classes 0": ("3", "x" * 1000),
    "splits": ({},),
    "splits train shards 0 path": ("3",),
    "preparation": ({},),
    "left_out": ([],),
}


@pytest.mark.parametrize("place", PLACES)
def test_wrong_value_in_the_manifest_is_one_line_that_names_the_file(small, place):
    original = (small / "dataset.json").read_text()
    for wrong in WRONG:
        if wrong in RIGHT.get(place, ()):
            continue
        (small / "dataset.json").write_text(original)
        change(small, *(int(part) if part.isdigit() else part for part in place.split()), wrong)
        with pytest.raises(ValueError, match=r"dataset\.json: not a readable dataset\.json: ") as error:
            load_dataset(small)
        assert len(str(error.value)) < 1400


@pytest.mark.parametrize("key", ["name", "shape", "bit_depth", "classes", "splits", "preparation"])
def test_missing_key_of_the_manifest_is_named(small, key):
    manifest = json.loads((small / "dataset.json").read_text())
    del manifest[key]
    (small / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"dataset\.json: not a readable dataset\.json: {key} is missing"):
        load_dataset(small)


def test_manifest_that_lists_a_shard_again_or_claims_more_is_refused(small):
    original = (small / "dataset.json").read_text()
    manifest = json.loads(original)
    shards = manifest["splits"]["train"]["shards"]
    change(small, "splits", "train", "shards", [*shards, shards[0]])
    with pytest.raises(ValueError, match=r"splits\.train: train-00000\.tar is listed more than once"):
        load_dataset(small)
    (small / "dataset.json").write_text(original)
    change(small, "splits", "train", "num_images", 10**9)
    with pytest.raises(ValueError, match=r"splits\.train: num_images: 1000000000, but its shards have 6"):
        load_dataset(small)
    change(small, "splits", "train", "shards", 0, "num_images", 10**9)
    with pytest.raises(ValueError, match=r"train-00000\.tar: 1000000000 images in \d+ bytes are not possible"):
        load_dataset(small)
    (small / "dataset.json").write_text(original)
    change(small, "splits", "train", "shards", shards[::-1])
    with pytest.raises(ValueError, match=r"splits\.train: sha256: not the hash"):
        load_dataset(small)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"name": 1, "name": 2}', "'name' is given twice"),
        ("[]", "no mapping"),
        ("\xff", "not readable JSON"),
        ("", "not readable JSON"),
        ('{"splits": ' + "9" * 5000 + "}", "not readable JSON"),
    ],
)
def test_text_that_is_no_manifest_is_refused(tmp_path, content, message):
    (tmp_path / "dataset.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"dataset\.json: .*{message}"):
        load_dataset(tmp_path)


def test_notes_in_the_manifest_are_ignored(small):
    before = load_dataset(small)
    change(small, "licence", "CC0")
    assert load_dataset(small) == before


def test_size_of_manifest_index_and_sample_is_bounded(older, monkeypatch):
    for variable, message in [
        ("GLOW_MAX_JSON_BYTES", r"dataset\.json: [\d,]+ bytes, but 50 are the limit"),
        ("GLOW_MAX_INDEX_BYTES", r"train-00000\.idx: [\d,]+ bytes, but 50 are the limit"),
        ("GLOW_MAX_SAMPLE_BYTES", r"train-00000\.idx: a sample: [\d,]+ bytes, but 50 are the limit"),
    ]:
        monkeypatch.setenv(variable, "50")
        with pytest.raises(ValueError, match=rf"{message}; set {variable} to allow"):
            SplitReader(older, "train")
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    "line",
    [
        "png 1{0} 500 a.png",
        "png {0} 500 a.png",
        "png 512 1{0} a.png",
        "png -512 500 a.png",
        "png 512 -500 a.png",
        "png 512 0 a.png",
        "png 5.5 500 a.png",
        "png 1_0 500 a.png",
        "png \u00b2 500 a.png",
        "png nan inf a.png",
        "png 512 500 a.png cls {0} 1 a.cls",
        "png 512 500",
        "png 512 500 " + "a" * 300 + ".png",
        "png 512 500 .png",
        "cls 512 1 a.cls",
        "",
    ],
)
@pytest.mark.parametrize("zeros", [15, 30])
def test_impossible_index_is_one_line_that_names_it(older, line, zeros):
    index = older / "train-00000.idx"
    lines = index.read_text().splitlines()
    lines[1] = line.format("9" * zeros)
    index.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train-00000\.idx: (damaged index|points at byte|a sample: )"):
        SplitReader(older, "train")


def test_index_with_a_sample_twice_is_refused(older):
    index = older / "train-00000.idx"
    lines = index.read_text().splitlines()
    index.write_text("\n".join([*lines[:2], lines[1], *lines[3:]]) + "\n")
    with pytest.raises(ValueError, match=r"train-00000\.idx: damaged index: line 3 overlaps the line before it"):
        read_index(index)


def test_index_of_another_program_may_have_the_label_first(tmp_path):
    index = tmp_path / "a.idx"
    index.write_text("v1.2 2\ncls 512 1 a.cls png 1536 500 a.png\ncls 2560 1 b.cls png 3584 500 b.png")
    assert read_index(index).spans.tolist() == [[1536, 500, 512, 1], [3584, 500, 2560, 1]]


@pytest.mark.parametrize("name", ["dataset.json", "train-00000.idx", "train-00000.tar"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path)], ids=["fifo", "dir", "loop"])
def test_what_is_no_file_is_refused_at_once(older, name, make):
    (older / name).unlink()
    make(older / name)
    with pytest.raises(ValueError, match=rf"{name}: .*(not a file|symbolic links)"):
        SplitReader(older, "train").read([0])


def test_sparse_shard_takes_no_memory(older):
    """It holds as many bytes as the manifest claims, but they take no room on the disk."""
    size = 2**40
    manifest = json.loads((older / "dataset.json").read_text())
    with (older / "train-00000.tar").open("r+b") as file:
        file.truncate(size)
    manifest["splits"]["train"]["shards"][0]["num_bytes"] = size
    (older / "dataset.json").write_text(json.dumps(manifest))
    lines = (older / "train-00000.idx").read_text().splitlines()
    (older / "train-00000.idx").write_text("\n".join([lines[0], f"png 512 {2**39} a.png", *lines[2:]]))
    with pytest.raises(ValueError, match=r"train-00000\.idx: a sample: 549,755,813,888 bytes, but .* are the limit"):
        SplitReader(older, "train").read([0])


def test_path_of_a_tar_says_what_to_do(small):
    with pytest.raises(ValueError, match=r"train-00000\.tar: a file, not the directory of a data set; make one"):
        load_dataset(small / "train-00000.tar")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def cut_png(array, num_rows):
    """A PNG whose chunks are valid and whose compressed data end in order, but after some rows."""
    height, width, channels = array.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in array[:num_rows])
    idat = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + idat + chunk(b"IEND", b"")


@pytest.mark.parametrize("num_rows", [1, 3, 7])
@pytest.mark.parametrize("last", ["picture", "black"])
def test_png_that_ends_early_inside_valid_chunks_is_refused(num_rows, last):
    array = picture(height=8, width=8)
    if last == "black":
        array[-1] = 0
    assert (decode_png(cut_png(array, 8), (3, 8, 8)) == array.transpose(2, 0, 1)).all()
    with pytest.raises(SyntaxError, match=r"its data end .* bytes before the last pixel"):
        decode_png(cut_png(array, num_rows), (3, 8, 8))
    with pytest.raises(ImageError, match=r"x\.png: cannot be read: its data end"):
        decode("x.png", cut_png(array, num_rows))


def test_complete_pngs_of_all_kinds_are_accepted():
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        for size in ((1, 1), (3, 5), (8, 8), (17, 9)):
            check_complete(encoded(Image.new(mode, size)))
            decode("x.png", encoded(Image.new(mode, size)))
    # Pillow writes no interlaced PNG: seven passes of a black image of 5 x 3.
    passes = [(1, 1), (1, 1), (2, 0), (1, 1), (3, 1), (2, 2), (5, 1)]
    data = b"".join((b"\0" + bytes(width)) * height for width, height in passes if height)
    header = struct.pack(">IIBBBBB", 5, 3, 8, 0, 0, 0, 1)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    check_complete(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert np.asarray(decode("x.png", b"\x89PNG\r\n\x1a\n" + b"".join(parts))).shape == (3, 5)
    parts[1] = chunk(b"IDAT", zlib.compress(data[:-1]))
    with pytest.raises(ImageError, match="cannot be read"):
        decode("x.png", b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_label_of_a_hostile_length_is_refused(small):
    reader = SplitReader(small, "train")
    sample = reader.read([0])[0]
    with pytest.raises(ValueError, match=r"is damaged: its label is b'9{40}'"):
        reader.decode(type(sample)(sample.key, sample.png, b"9" * 5000))
