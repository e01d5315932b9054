"""The order of training: every image once an epoch, in long runs."""

import itertools

import numpy as np
import pytest

from glow.data.read import order as module
from glow.data.read.order import KeyedOrder, TrainingOrder, epoch_order, newest_version, permuted


def keyed_order(num_images, run_length, batch_size, seed, epoch):
    return KeyedOrder(num_images, run_length, batch_size, seed, epoch).at(np.arange(num_images))


versions = pytest.mark.parametrize("of_epoch", [epoch_order, keyed_order])


@versions
@pytest.mark.parametrize(
    ("num_images", "run_length", "batch_size"),
    [(97, 5, 10), (64, 1, 64), (7, 3, 10), (1, 1, 1), (100, 100, 1), (1000, 7, 3)],
)
def test_an_epoch_holds_every_image_once(num_images, run_length, batch_size, of_epoch):
    order = of_epoch(num_images, run_length, batch_size, seed=0, epoch=0)
    assert sorted(order.tolist()) == list(range(num_images))


@versions
def test_order_depends_on_seed_and_epoch(of_epoch):
    orders = [of_epoch(97, 5, 10, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert of_epoch(97, 5, 10, 1, 1).tolist() == orders[3]


@versions
def test_a_range_of_slots_reads_long_runs(of_epoch):
    order = of_epoch(6400, 32, 64, seed=0, epoch=0).reshape(100, 64)
    mine = np.sort(order[:, 16:32].ravel())
    num_runs = np.count_nonzero(np.diff(mine) != 1) + 1
    # 1,600 images: 50 runs of 32 were they not cut at the ends of the range and by the random phase.
    assert num_runs < 60


@pytest.mark.parametrize("version", [1, 2])
def test_sequence_goes_on_over_epochs_without_gaps(version):
    order = TrainingOrder(97, 5, 10, seed=0, version=version)
    epochs, images = order.at(np.arange(3 * 97))
    assert np.array_equal(epochs, np.repeat([0, 1, 2], 97))
    for epoch in range(3):
        assert sorted(images[epochs == epoch].tolist()) == list(range(97))
    assert np.array_equal(order.at(np.array([150]))[1], images[150:151])


@versions
def test_neighbours_in_the_data_are_no_neighbours_in_the_order(of_epoch):
    """Numbers at successive steps of a lane differ by as much as a shuffle within runs, and of runs, makes them."""
    order = of_epoch(20_000, 50, 10, seed=0, epoch=0).reshape(2000, 10)
    within = np.abs(np.diff(order[:, 3]))
    # In a run of 50, random pairs are 17 apart in the mean; runs are far apart.
    assert 14 < within[within < 50].mean() < 20
    assert 2000 < np.abs(np.diff(order[::50, 3])).mean() < 12_000


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 97, 1000])
def test_a_keyed_permutation_takes_every_number_once_and_goes_back(size):
    numbers = np.arange(size)
    for key in (np.uint64(0), np.uint64(2**64 - 1)):
        there = permuted(numbers, np.array(size), key)
        assert sorted(there.tolist()) == numbers.tolist()
        assert np.array_equal(permuted(there, np.array(size), key, inverse=True), numbers)


def test_keyed_permutations_are_equally_likely():
    count = 24_000
    keys = np.repeat(np.arange(count, dtype=np.uint64), 4)
    there = permuted(np.tile(np.arange(4), count), np.full(4 * count, 4), keys).reshape(count, 4)
    _, found = np.unique(there, axis=0, return_counts=True)
    assert len(found) == 24
    # Chi-squared with 23 degrees of freedom: above 58 with probability 1e-4.
    assert ((found - 1000) ** 2 / 1000).sum() < 58


def test_large_data_sets_begin_with_the_order_that_sorts_nothing(monkeypatch):
    assert [newest_version(count) for count in (50_000, 2**20, 2**20 + 1)] == [1, 1, 2]
    monkeypatch.setattr(module, "epoch_order", None)
    assert TrainingOrder(10**9, 1000, 64, seed=0).at(np.arange(3))[1].max() < 10**9
