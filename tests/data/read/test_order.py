"""The order of training: every image once an epoch, in long runs."""

import itertools

import numpy as np
import pytest

from glow.data.read.order import TrainingOrder, epoch_order


@pytest.mark.parametrize(
    ("num_images", "run_length", "batch_size"), [(97, 5, 10), (64, 1, 64), (7, 3, 10), (1, 1, 1), (100, 100, 1)]
)
def test_an_epoch_holds_every_image_once(num_images, run_length, batch_size):
    order = epoch_order(num_images, run_length, batch_size, seed=0, epoch=0)
    assert sorted(order.tolist()) == list(range(num_images))


def test_order_depends_on_seed_and_epoch():
    orders = [epoch_order(97, 5, 10, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert epoch_order(97, 5, 10, 1, 1).tolist() == orders[3]


def test_a_range_of_slots_reads_long_runs():
    order = epoch_order(6400, 32, 64, seed=0, epoch=0).reshape(100, 64)
    mine = np.sort(order[:, 16:32].ravel())
    num_runs = np.count_nonzero(np.diff(mine) != 1) + 1
    # 1,600 images: 50 runs of 32 were they not cut at the ends of the range and by the random phase.
    assert num_runs < 60


def test_sequence_goes_on_over_epochs_without_gaps():
    order = TrainingOrder(97, 5, 10, seed=0)
    epochs, images = order.at(np.arange(3 * 97))
    assert np.array_equal(epochs, np.repeat([0, 1, 2], 97))
    for epoch in range(3):
        assert sorted(images[epochs == epoch].tolist()) == list(range(97))
    assert np.array_equal(order.at(np.array([150]))[1], images[150:151])
