"""Batches: every image once, the same for any number of processes and workers."""

from collections import Counter

import numpy as np
import pytest
import torch
from batches import same, take

from glow.config import DataConfig, PrepareRun
from glow.data.prepare.writer import prepare
from glow.data.read.batch import Batch, Share
from glow.data.read.loader import augment, dequantization_noise, eval_batches
from glow.data.read.manifest import load_dataset
from glow.data.read.reader import SplitReader
from glow.randomness import generator


@pytest.fixture(scope="module", params=["prepared", "linked"])
def dataset(request, dataset, tmp_path_factory):
    """The data set of 97 + 13 + 23 images, and one that links its shards."""
    if request.param == "prepared":
        yield dataset
        return
    linked = tmp_path_factory.mktemp("linked") / "tiny"
    held_out = {name: f"{dataset}/{name}-*.tar" for name in ("validation", "test")}
    prepare(PrepareRun([f"{dataset}/train-{{00000..00009}}.tar"], str(linked), link=True, size=8, **held_out))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOW_DATA_ROOT", str(dataset))
        yield linked


@pytest.mark.parametrize("world", [2, 3, 7, 10])
def test_global_batches_are_the_same_for_any_number_of_processes(dataset, world):
    alone = take(dataset, 12, flip=True, shift=2)
    shared = [take(dataset, 12, share=Share(rank, world), flip=True, shift=2) for rank in range(world)]
    for step, batch in enumerate(alone):
        assert same(Batch.concatenate([part[step] for part in shared]), batch)


def test_global_batches_are_the_same_for_any_number_of_workers(dataset):
    assert all(same(a, b) for a, b in zip(take(dataset, 12), take(dataset, 12, num_workers=2), strict=True))


def test_every_image_is_seen_once_an_epoch(dataset):
    keys = [key for batch in take(dataset, 97) for key in batch.keys]
    expected = SplitReader(dataset, "train").keys()
    for epoch in range(10):
        assert sorted(keys[97 * epoch : 97 * (epoch + 1)]) == sorted(expected)
    assert keys[:97] != keys[97:194]


def test_training_goes_on_from_any_position(dataset):
    through, resumed = take(dataset, 25), take(dataset, 5, images_seen=200)
    assert all(same(a, b) for a, b in zip(through[20:], resumed, strict=True))


def test_noise_changes_with_the_epoch_and_lies_within_0_and_1(dataset):
    batches = Batch.concatenate(take(dataset, 20))
    noise = {}
    for key, row in zip(batches.keys, batches.noise, strict=True):
        noise.setdefault(key, []).append(row)
    twice = next(rows for rows in noise.values() if len(rows) == 2)
    assert not torch.equal(*twice)
    assert batches.noise.min() > 0
    assert batches.noise.max() < 1


def test_more_processes_than_images_in_a_batch_are_refused(dataset):
    with pytest.raises(ValueError, match=r"train\.batch_size: 4 is not allowed with 5 processes; give 5 or more"):
        take(dataset, 1, batch_size=4, share=Share(0, 5))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_reads_every_image_exactly_once(dataset, batch_size, world):
    reader = SplitReader(dataset, "test")
    batches = [batch for rank in range(world) for batch in eval_batches(reader, batch_size, 0, Share(rank, world))]
    assert [key for batch in batches for key in batch.keys] == reader.keys()
    assert len(reader) == load_dataset(dataset).splits["test"].num_images == 23
    first = batches[0]
    assert torch.equal(first.noise[0], torch.from_numpy(dequantization_noise(first.keys[0], (3, 8, 8), 0)))


def test_evaluation_may_stop_early(dataset):
    reader = SplitReader(dataset, "test")
    assert sum(len(batch) for batch in eval_batches(reader, 4, 0, num_images=9)) == 9


def test_augmentation_mirrors_and_shifts_half_and_half():
    image = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    flipped = [augment(image, DataConfig(flip=True), generator(0, "test", i)) for i in range(200)]
    counts = Counter(np.array_equal(result, image) for result in flipped)
    assert 60 < counts[True] < 140
    assert all(np.array_equal(r, image) or np.array_equal(r, image[:, :, ::-1]) for r in flipped)
    shifted = {augment(image, DataConfig(shift=1), generator(0, "test", i)).tobytes() for i in range(200)}
    assert len(shifted) == 9
    moved = np.concatenate([image[:, 1:], image[:, -1:]], axis=1)
    assert moved.tobytes() in shifted
