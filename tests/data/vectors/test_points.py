"""Batches of vectors: of a density, of a file, in an order of seed and position."""

import pytest
import torch

from glow.config import VectorDataConfig
from glow.data.read.batch import Share
from glow.data.vectors.noise import Noise
from glow.data.vectors.points import VectorData


@pytest.mark.parametrize("fresh", [False, True])
def test_batches_depend_on_seed_and_step_alone(fresh):
    data = VectorData(VectorDataConfig("moons", fresh=fresh, num_points=None if fresh else 100))

    def take(start, count, seed=0, share=None):
        batches = data.train_batches(24, seed, start, share)
        return [next(batches).x for _ in range(count)]

    whole = take(0, 8)
    assert whole[0].dtype == torch.float32
    assert torch.equal(torch.cat(take(5 * 24, 3)), torch.cat(whole[5:]))
    parts = [take(0, 8, share=Share(rank, 5)) for rank in range(5)]
    assert all(torch.equal(torch.cat(mine), batch) for mine, batch in zip(zip(*parts, strict=True), whole, strict=True))
    assert not torch.equal(take(0, 1, seed=1)[0], whole[0])


@pytest.mark.parametrize("data", [VectorData(VectorDataConfig("moons", num_points=100)), Noise(2)])
def test_more_processes_than_vectors_in_a_batch_are_refused(data):
    with pytest.raises(ValueError, match=r"train\.batch_size: 4 is not allowed with 5 processes; give 5 or more"):
        next(data.train_batches(4, 0, share=Share(0, 5)))


def test_fixed_points_come_once_an_epoch_in_another_order_each():
    data = VectorData(VectorDataConfig("rings", num_points=96))
    batches = data.train_batches(24, 0)
    first, second = (torch.cat([next(batches).x for _ in range(4)]) for _ in range(2))
    assert not torch.equal(first, second)
    for epoch in (first, second):
        assert sorted(epoch.tolist()) == sorted(data.points.tolist())


def test_held_out_vectors_are_others_and_are_shared_out_once():
    data = VectorData(VectorDataConfig("mixture", num_points=500))
    assert not set(map(tuple, data.held_out.tolist())) & set(map(tuple, data.points.tolist()))
    parts = [batch.x for rank in range(3) for batch in data.validation_batches(999, Share(rank, 3))]
    assert torch.equal(torch.cat(parts), torch.from_numpy(data.held_out))
