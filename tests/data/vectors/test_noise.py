"""Batches of noise."""

import pytest
import torch

from glow.data.read.batch import Share
from glow.data.vectors.noise import NUM_VALIDATION, Noise


def test_batches_depend_on_seed_and_step_alone_and_beta_rises():
    noise = Noise(3, anneal_steps=4)

    def take(start, count, seed=0, share=None):
        batches = noise.train_batches(10, seed, start, share)
        return [next(batches) for _ in range(count)]

    whole = take(0, 6)
    assert [float(batch.beta[0]) for batch in whole] == pytest.approx([0.01, 0.2575, 0.505, 0.7525, 1, 1])
    assert torch.equal(take(50, 1)[0].noise, whole[5].noise)
    parts = [take(0, 6, share=Share(rank, 3)) for rank in range(3)]
    for mine, batch in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.equal(torch.cat([part.noise for part in mine]), batch.noise)
    assert not torch.equal(take(0, 1, seed=1)[0].noise, whole[0].noise)
    assert not torch.equal(whole[0].noise, whole[1].noise)


def test_validation_noise_is_shared_out_once():
    parts = [batch for rank in range(3) for batch in Noise(2, 9).validation_batches(999, 0, Share(rank, 3))]
    whole = torch.cat([batch.noise for batch in parts])
    assert len(whole) == NUM_VALIDATION
    assert torch.equal(whole, next(iter(Noise(2).validation_batches(NUM_VALIDATION, 0))).noise)
    assert all((batch.beta == 1).all() for batch in parts)
