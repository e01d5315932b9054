"""Samples read out of shards: the right ones, few requests, and clear errors where something is damaged."""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import read_split
from foreign import as_first_version
from PIL import Image

from glow.data.read.batch import Batch
from glow.data.read.index import read_index
from glow.data.read.loader import eval_batches
from glow.data.read.manifest import load_dataset
from glow.data.read.reader import SplitReader


def test_images_and_labels_are_those_that_webdataset_reads(dataset):
    ours = Batch.concatenate(list(eval_batches(SplitReader(dataset, "train"), 10, 0)))
    theirs = read_split(dataset, "train")
    assert list(theirs) == ours.keys
    for (pixels, label), image, our_label in zip(theirs.values(), ours.images, ours.labels, strict=True):
        assert np.array_equal(pixels.transpose(2, 0, 1), image.numpy())
        assert label == our_label


def test_reader_opens_only_the_shards_it_needs(dataset, monkeypatch):
    reader = SplitReader(dataset, "train")
    opened = []
    read = SplitReader._read_bytes
    monkeypatch.setattr(
        SplitReader, "_read_bytes", lambda self, shard, a, b: opened.append(shard.path) or read(self, shard, a, b)
    )
    samples = reader.read([35, 36, 38, 40])
    assert sorted(samples) == [35, 36, 38, 40]
    assert opened == ["train-00003.tar", "train-00004.tar"]
    # Far apart, parts are asked for one by one; near each other, the gap is read too.
    opened.clear()
    monkeypatch.setattr("glow.data.read.reader.GAP_BYTES", 2048)
    assert reader.read([35, 36, 38, 40]) == samples
    assert opened == ["train-00003.tar", "train-00003.tar", "train-00004.tar"]


def broken(dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    return copy


def test_missing_data_set_and_split_are_clear_errors(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"not a data set \(no dataset\.json\); make one with glow prepare"):
        SplitReader(tmp_path, "train")
    with pytest.raises(ValueError, match="has no split 'dev'; it has"):
        SplitReader(dataset, "dev")


def test_shard_of_another_size_is_a_clear_error(dataset, tmp_path):
    copy = broken(dataset, tmp_path)
    with (copy / "train-00000.tar").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"train-00000\.tar: \d+ bytes, but dataset\.json says"):
        SplitReader(copy, "train").read([0])
    (copy / "train-00000.tar").unlink()
    with pytest.raises(ValueError, match=r"train-00000\.tar: cannot be read: there is no such file"):
        SplitReader(copy, "train").read([0])


def test_damaged_index_is_a_clear_error(dataset, tmp_path):
    copy = as_first_version(broken(dataset, tmp_path))
    index = copy / "test-00000.idx"
    lines = index.read_text().splitlines()
    index.write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"test-00000\.idx: damaged index"):
        SplitReader(copy, "test")
    index.write_text("")
    with pytest.raises(ValueError, match=r"test-00000\.idx: damaged index"):
        SplitReader(copy, "test")
    index.write_text("\n".join([lines[0], "png x y z", *lines[2:]]))
    with pytest.raises(ValueError, match=r"test-00000\.idx: damaged index, .* at line 2"):
        SplitReader(copy, "test")
    index.unlink()
    with pytest.raises(ValueError, match="the index of this shard is missing"):
        SplitReader(copy, "test")


@pytest.mark.parametrize("path", ["../elsewhere.tar", "pipe:cat x", "/etc/passwd"])
def test_manifest_cannot_point_elsewhere(dataset, tmp_path, path):
    copy = broken(dataset, tmp_path)
    manifest = json.loads((copy / "dataset.json").read_text())
    manifest["splits"]["train"]["shards"][0]["path"] = path
    (copy / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is not the plain name of a file beside it"):
        load_dataset(copy)


def sample_of(reader):
    return reader.read([1])[1]


def test_every_damage_of_a_png_is_noticed(dataset):
    reader = SplitReader(dataset, "train")
    sample, rng = sample_of(reader), np.random.default_rng(0)
    right = reader.decode(sample)
    for trial in range(300):
        png = bytearray(sample.png)
        place = int(rng.integers(len(png)))
        if trial % 3:
            png[place] ^= 1 << int(rng.integers(8))
        else:
            png[place:] = bytes(len(png) - place) if trial % 2 else b""
        damaged = dataclasses.replace(sample, png=bytes(png))
        # A changed end marker or signature leaves the pixels as they are.
        with contextlib.suppress(ValueError):
            assert np.array_equal(reader.decode(damaged), right), (trial, place)


def test_damaged_or_foreign_image_is_a_clear_error(dataset, tmp_path):
    copy = broken(dataset, tmp_path)
    reader = SplitReader(copy, "train")
    shard = copy / "train-00000.tar"
    data = bytearray(shard.read_bytes())
    start, size = read_index(copy / "train-00000.idx").spans[0, :2]
    data[start + 20 : start + size] = bytes(size - 20)
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"sample class\d-\d+ is damaged"):
        reader.decode(reader.read([0])[0])
    with pytest.raises(ValueError, match=r"sample class\d-\d+ is damaged"):
        reader.decode(type(sample_of(reader))("class0-0", b"", b""))
    Image.new("RGB", (9, 8)).save(tmp_path / "other.png")
    sample = reader.read([1])[1]
    other = type(sample)(sample.key, (tmp_path / "other.png").read_bytes(), None)
    with pytest.raises(ValueError, match=r"is 9x8 RGB, but dataset\.json says shape \[3, 8, 8\]"):
        reader.decode(other)
