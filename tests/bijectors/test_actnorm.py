"""ActNorm: data-dependent initialisation, and what it refuses."""

import pytest
import torch
from exactness import build, examples

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.initialization import initialize_actnorms


def test_actnorm_initialisation_normalises_every_channel():
    actnorm, x = ActNorm(4).double(), 3 * examples(64) + 2
    initialize_actnorms(actnorm, x)
    z, _ = actnorm(x)
    by_channel = z.transpose(0, 1).flatten(1)
    assert by_channel.mean(1).abs().max() < 1e-12
    assert (by_channel.var(1, correction=0) - 1).abs().max() < 1e-12


def test_actnorm_before_initialisation_raises():
    with pytest.raises(RuntimeError, match="before its initialisation"):
        ActNorm(4)(torch.zeros(2, 4, 2, 2))
    with pytest.raises(RuntimeError, match="before its initialisation"):
        ActNorm(4).inverse(torch.zeros(2, 4, 2, 2))


def test_actnorm_of_constant_channel_stays_finite_and_is_named():
    actnorm = ActNorm(2)
    x = torch.stack([torch.full((8, 2, 2), 3.0), torch.randn(8, 2, 2)], dim=1)
    with pytest.warns(UserWarning, match=r"chain\.7\.actnorm: constant input in channel 0"):
        actnorm.initialize(lambda: [x], "chain.7.actnorm")
    z, logdet = actnorm(x)
    assert z.isfinite().all()
    assert logdet.isfinite().all()
    assert actnorm.log_scale[0] == 0


def test_actnorm_is_not_initialised_again_after_loading():
    source, target = build("actnorm", 0.3), ActNorm(4).double()
    target.load_state_dict(source.state_dict())
    target(examples(8, seed=5))
    assert torch.equal(target.bias, source.bias)
    assert torch.equal(target.log_scale, source.log_scale)
