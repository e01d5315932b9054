"""Windows that are cut out of images of many sizes."""

import json

import numpy as np
import pytest
import torch
from batches import same, take
from foreign import photo, write_tar

from glow.config import DataConfig, PrepareRun
from glow.data.images.window import window
from glow.data.prepare.writer import prepare
from glow.data.read.batch import Batch, Share
from glow.data.read.loader import eval_batches
from glow.data.read.manifest import load_dataset
from glow.data.read.reader import SplitReader
from glow.randomness import generator

SIZES = [(12, 20), (16, 16), (30, 11), (14, 40), (11, 13)]  # height, width


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    images = [(f"{i:03d}.png", photo(i, *SIZES[i % 5], kind="PNG")) for i in range(20)]
    write_tar(folder / "a.tar", [pair for name, png in images for pair in ((name, png), (f"{name[:3]}.cls", b"1"))])
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["prepared", "linked"])
def kept(request, shards, tmp_path_factory):
    return made(shards, tmp_path_factory.mktemp("kept"), short_side="keep", link=request.param)


def made(shards, folder, **options):
    output = str(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOW_DATA_ROOT", str(shards))
        prepare(PrepareRun([f"{shards}/*.tar"], output, validation="5", num_workers=0, color="rgb", **options))
    return output


@pytest.fixture(autouse=True)
def root(shards, monkeypatch):
    monkeypatch.setenv("GLOW_DATA_ROOT", str(shards))


def whole(reader):
    samples = reader.read(range(len(reader)))
    return {sample.key: reader.decode_whole(sample) for sample in samples.values()}


def test_sizes_are_stated_as_a_range(kept):
    dataset = load_dataset(kept)
    assert (dataset.shape, dataset.largest) == ((3, 11, 11), (30, 40))
    reader = SplitReader(kept, "train", size=8)
    assert {image.shape[1:] for image in whole(reader).values()} == set(SIZES)
    assert reader.shape == (3, 8, 8)


def test_training_takes_windows_at_random_and_validation_those_at_the_centre(kept):
    reader = SplitReader(kept, "train", size=8)
    images = whole(reader)
    (batch,) = take(kept, 1, batch_size=15, size=8, crop="random")
    for key, image in zip(batch.keys, batch.images.numpy(), strict=True):
        height, width = images[key].shape[1:]
        top, left = generator(0, "train", 0, key).integers((height - 8, width - 8), endpoint=True)
        assert np.array_equal(image, images[key][:, top : top + 8, left : left + 8])
    for batch in eval_batches(reader, 4, 0):
        for key, image in zip(batch.keys, batch.images.numpy(), strict=True):
            height, width = images[key].shape[1:]
            top, left = (height - 8) // 2, (width - 8) // 2
            assert np.array_equal(image, images[key][:, top : top + 8, left : left + 8])


def test_windows_are_the_same_for_any_number_of_processes_and_workers_and_differ_in_every_epoch(kept):
    options = {"batch_size": 6, "size": 8, "crop": "random", "flip": True}
    alone = take(kept, 6, **options)
    for world in (2, 3):
        shared = [take(kept, 6, share=Share(rank, world), **options) for rank in range(world)]
        for step, batch in enumerate(alone):
            assert same(Batch.concatenate([part[step] for part in shared]), batch)
    assert all(same(a, b) for a, b in zip(alone, take(kept, 6, num_workers=2, **options), strict=True))
    seen = {}
    for batch in alone:
        for key, image in zip(batch.keys, batch.images, strict=True):
            seen.setdefault(key, []).append(image)
    assert any(not torch.equal(*images) for images in seen.values() if len(images) == 2)


def test_linked_images_are_those_of_a_prepared_copy(shards, tmp_path):
    for number, short_side in enumerate(("keep", 9)):
        copies = [
            made(shards, tmp_path / f"{link}-{number}", short_side=short_side, link=link) for link in (False, True)
        ]
        mine, theirs = (load_dataset(copy) for copy in copies)
        assert (mine.shape, mine.largest) == (theirs.shape, theirs.largest)
        pixels = [whole(SplitReader(copy, "validation", size=8)) for copy in copies]
        assert pixels[0].keys() == pixels[1].keys()
        assert all(np.array_equal(pixels[0][key], pixels[1][key]) for key in pixels[0])


def test_the_shorter_side_gets_its_size_and_nothing_is_cut_off(shards, tmp_path):
    output = made(shards, tmp_path, short_side=9)
    dataset = load_dataset(output)
    assert (dataset.shape, dataset.largest) == ((3, 9, 9), (25, 26))
    sizes = {image.shape[1:] for image in whole(SplitReader(output, "train", size=9)).values()}
    assert sizes == {(9, 15), (9, 9), (25, 9), (9, 26), (9, 11)}


def test_what_does_not_fit_is_named(kept, tmp_path):
    sizes = r"11 x 11 to 30 x 40 \(height x width\)"
    with pytest.raises(ValueError, match=rf"data\.size: the images of data are {sizes}; give it .* 11 or less"):
        take(kept, 1)
    with pytest.raises(ValueError, match=rf"data\.size: 12, but the images of data are {sizes}; give 11 or less"):
        take(kept, 1, size=12)
    with pytest.raises(ValueError, match=r"data\.crop: 'random' is not allowed; set data\.size"):
        DataConfig(crop="random")
    with pytest.raises(ValueError, match=r"data\.size: 8 is not allowed; leave it out: with data\.stream"):
        DataConfig(size=8, stream="x.tar")
    with pytest.raises(ValueError, match=r"short_side: 9 is not allowed; leave it or size out"):
        PrepareRun(["x"], "y", size=8, short_side=9)
    with pytest.raises(ValueError, match=r"short_side: 0 is not allowed; give 1 or more, or keep"):
        PrepareRun(["x"], "y", short_side=0)
    with pytest.raises(ValueError, match=r"an image is 7 x 9 .* too small for windows of 8"):
        window(np.zeros((3, 7, 9), np.uint8), 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"largest": [10, 40]}, r"shape: \[3, 11, 11\], largest: \[10, 40\] is not allowed"),
        ({"largest": [2**40, 40]}, r"largest: \[1099511627776, 40\] is not allowed"),
        ({"short_side": 0}, r"short_side: 0 is not allowed"),
        ({"short_side": "all"}, r"short_side: 'all' is not allowed"),
    ],
)
def test_manifest_of_a_stranger_is_refused(shards, tmp_path, change, message):
    output = made(shards, tmp_path, short_side="keep", link=True)
    path = tmp_path / "data/dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_dataset(output)


def test_form_of_a_linked_data_set_is_covered_by_its_checksums(shards, tmp_path):
    output = made(shards, tmp_path, short_side="keep", link=True)
    path = tmp_path / "data/dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"short_side": 12}))
    with pytest.raises(ValueError, match=r"another index than that of dataset\.json"):
        SplitReader(output, "train", size=8)


def test_smaller_and_larger_images_than_the_manifest_says_are_refused(shards, tmp_path):
    output = made(shards, tmp_path, short_side="keep")
    path = tmp_path / "data/dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"largest": [30, 30]}))
    with pytest.raises(ValueError, match=r"it is 40x14 RGB, but dataset.json says shape \[3, 11, 11\] to \[30, 30\]"):
        whole(SplitReader(output, "train", size=8))
