"""Batch normalisation: statistics of the batch in training, running averages otherwise."""

import pytest
import torch
from exactness import examples

from glow.bijectors.batchnorm import BatchNorm


def test_batch_norm_uses_the_batch_in_training_and_its_averages_otherwise():
    norm, x = BatchNorm(5).double(), 3 * examples(64, shape=(5,)) + 2
    z, logdet = norm(x)
    assert z.mean(0).abs().max() < 1e-12
    assert (z.var(0, correction=0) - 1).abs().max() < 1e-4
    assert torch.allclose(logdet, -0.5 * (x.var(0, correction=0) + norm.epsilon).log().sum().expand(64))
    for _ in range(200):
        norm(x)
    assert torch.allclose(norm.running_mean, x.mean(0))
    assert torch.allclose(norm.eval()(x)[0], z)
    single, _ = norm(x[:1])
    assert torch.allclose(single, z[:1])


def test_batch_norm_in_training_is_not_independent_across_the_batch_and_needs_two():
    norm, x = BatchNorm(5).double(), examples(4, shape=(5,))
    changed = x.clone()
    changed[0] += 1
    assert not torch.allclose(norm(x)[0][1:], norm(changed)[0][1:])
    with pytest.raises(ValueError, match="two or more examples"):
        norm(x[:1])
