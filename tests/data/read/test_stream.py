"""Streamed shards: seeded draws, every process its own shards, and one line for what is damaged."""

import itertools

import pytest
import torch
from foreign import photo, write_as_img2dataset, write_tar, write_with_shard_writer

from glow.config import DataConfig, ModelConfig
from glow.data.read.batch import Share
from glow.data.read.stream import streamed_batches

MODEL = ModelConfig(image_shape=(3, 8, 8), num_levels=2, class_conditional=True, num_classes=3)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_with_shard_writer(tmp_path_factory.mktemp("stream") / "shards", count=60, maxcount=10)


def take(source, count, share=None, images_seen=0, model=MODEL, batch_size=6, classes=None, **options):
    config = DataConfig(stream=str(source), **options)
    batches = streamed_batches(config, model, batch_size, (0, images_seen), share or Share(), classes)
    return list(itertools.islice(batches, count))


def pixels(batches):
    return torch.cat([batch.images for batch in batches])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_same_seed_gives_the_same_draws_and_another_position_other_ones(written, num_workers):
    first, again = (take(written, 5, num_workers=num_workers, flip=True) for _ in range(2))
    assert torch.equal(pixels(first), pixels(again))
    assert all(torch.equal(a.noise, b.noise) for a, b in zip(first, again, strict=True))
    assert not torch.equal(pixels(first), pixels(take(written, 5, images_seen=30, num_workers=num_workers, flip=True)))


def test_images_have_their_labels_and_noise_of_their_own(written):
    batches = take(written, 20)
    for batch in batches:
        assert batch.labels.tolist() == [int(key) % 3 for key in batch.keys]
    assert len({key for batch in batches for key in batch.keys}) > 30
    noise = torch.cat([batch.noise for batch in batches]).flatten(1)
    assert len(noise.unique(dim=0)) == 120


def test_processes_read_shards_of_their_own_and_share_the_batch(written):
    parts = [take(written, 30, Share(rank, 3), batch_size=7) for rank in range(3)]
    assert [len(batches[0]) for batches in parts] == [2, 2, 3]
    shards = [{int(key) // 10 for batch in batches for key in batch.keys} for batches in parts]
    assert shards == [{0, 3}, {1, 4}, {2, 5}]


def test_photos_of_any_size_are_brought_to_the_shape(tmp_path):
    source = write_as_img2dataset(tmp_path / "shards")
    model = ModelConfig(image_shape=(1, 16, 16), num_levels=2)
    (batch,) = take(f"{source}/{{00000..00002}}.tar", 1, model=model)
    assert batch.images.shape == (6, 1, 16, 16)
    assert batch.labels is None


def test_labels_may_be_names_of_classes(tmp_path):
    source = write_as_img2dataset(tmp_path / "shards")
    batches = take(source, 3, classes=("dog", "other", "cat"), label="json:class.name")
    for batch in batches:
        assert batch.labels.tolist() == [[2, 0][int(key[-4:]) % 2] for key in batch.keys]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.png", b"no image")], r"x\.tar: a: .*not an image"),
        ([("a.png", photo(0, 8, 8, "PNG"))], r"x\.tar: a: has no \.cls for its label"),
        ([("a.png", photo(0, 8, 8, "PNG")), ("a.cls", b"3")], r"its label is '3', but the model has classes 0 to 2"),
        ([("a.cls", b"1")], r"x\.tar: a: has no image"),
        ([], r"x\.tar: holds no files"),
    ],
)
def test_what_is_damaged_is_one_line(tmp_path, files, message):
    with pytest.raises(ValueError, match=message) as caught:
        take(write_tar(tmp_path / "x.tar", files), 1)
    assert "\n" not in str(caught.value)


def test_damaged_images_and_shards_are_skipped_and_named_on_request(written, tmp_path):
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    cut = tmp_path / "shard-000001.tar"
    cut.write_bytes(cut.read_bytes()[:4000])
    batches = take(tmp_path, 40, on_error="skip")
    problems = {problem for batch in batches for problem in batch.skipped}
    assert any("shard-000001.tar" in problem for problem in problems)
    assert all(len(batch) == 6 for batch in batches)


def test_stream_of_nothing_readable_ends(tmp_path):
    with pytest.raises(ValueError, match=r"x\.tar: "):
        take(write_tar(tmp_path / "x.tar", []), 1, on_error="skip")


def test_stream_of_broken_images_ends(tmp_path):
    path = write_tar(tmp_path / "x.tar", [(f"{number}.png", b"no image") for number in range(50)])
    with pytest.raises(ValueError, match=r"x\.tar: \d+: .*not an image"):
        take(path, 1, on_error="skip")


def test_missing_shard_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"nothing2?\.tar: cannot be read: there is no such file"):
        take(f"{tmp_path}/{{nothing,nothing2}}.tar", 1)
