"""Flows of vectors: density, samples, context, and what they refuse."""

import itertools
import math

import pytest
import torch
from conftest import perturb

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.base import Inverse
from glow.bijectors.conv1x1 import LUConv1x1
from glow.bijectors.coupling import AffineCoupling
from glow.bijectors.mask import ChannelMask
from glow.bijectors.planar import Planar
from glow.bijectors.radial import Radial
from glow.models.flow import DiagonalGaussian, Flow
from glow.networks.mlp import MLP


def build(num_dims=2, context_features=0, is_learned=True):
    """A float64 flow of everything there is, with its parameters moved."""
    torch.manual_seed(0)
    bijectors = [ActNorm(num_dims), LUConv1x1(num_dims)]
    for parity in (0, 1):
        mask = ChannelMask(parity)
        given, changed = mask.sizes(num_dims)
        net = MLP(given, 8, 2 * changed, context_features=context_features)
        bijectors.append(AffineCoupling(net, mask, scale="tanh"))
    flow = Flow(DiagonalGaussian(num_dims, is_learned=is_learned), [*bijectors, Planar(num_dims), Radial(num_dims)])
    flow.double().initialize(noise(64, num_dims), torch.eye(64, 3).double() if context_features else None)
    perturb(flow, 0.1)
    return flow


def noise(count, num_dims=2, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, num_dims, dtype=torch.float64, generator=rng)


@pytest.mark.parametrize("num_dims", [2, 3])
@pytest.mark.parametrize("context", [None, torch.tensor([[1.0, 0.0, 2.0]] * 5, dtype=torch.float64)])
def test_samples_decode_what_encode_makes_of_them(num_dims, context):
    flow = build(num_dims, 0 if context is None else 3)
    z = noise(5, num_dims)
    x, log_prob = flow.sample_and_log_prob(z, context)
    assert torch.equal(flow.sample(z, context), x)
    latents, logdet = flow.encode(x, context)
    assert (latents - flow.base.from_noise(z)).abs().max() < 1e-9
    assert (flow.decode(latents, context) - x).abs().max() < 1e-9
    assert (flow.log_prob(x, context) - log_prob).abs().max() < 1e-9
    assert torch.allclose(flow.base.log_prob(latents) + logdet, flow(x, context))


def test_density_integrates_to_one():
    flow = build()
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    points = torch.tensor(list(itertools.product(axis.tolist(), repeat=2)), dtype=torch.float64)
    with torch.no_grad():
        mass = flow.log_prob(points).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(mass - 1) < 1e-4


def test_context_changes_the_density():
    flow, x = build(context_features=3), noise(2)
    one, other = (flow.log_prob(x, torch.full((2, 3), value, dtype=torch.float64)) for value in (0.0, 1.0))
    assert not torch.allclose(one, other)


def test_base_is_a_gaussian_with_or_without_parameters():
    z = noise(4, 3)
    assert not list(DiagonalGaussian(3).parameters())
    assert torch.allclose(
        DiagonalGaussian(3).double().log_prob(z), torch.distributions.Normal(0, 1).log_prob(z).sum(1), atol=1e-12
    )
    learned = DiagonalGaussian(3, is_learned=True).double()
    perturb(learned, 0.5)
    expected = torch.distributions.Normal(learned.mean, learned.log_scale.exp())
    assert torch.allclose(learned.log_prob(z), expected.log_prob(z).sum(1))
    assert torch.allclose((learned.from_noise(z) - learned.mean) / learned.log_scale.exp(), z)


def test_noise_may_be_a_number_of_examples_and_a_generator():
    flow = build()
    a, b = (flow.sample(7, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert a.shape == (7, 2)
    assert a.dtype == torch.float64
    assert torch.equal(a, b)
    assert not torch.equal(a, flow.sample(7, generator=torch.Generator().manual_seed(4)))


def test_samples_carry_gradients():
    flow = Flow(DiagonalGaussian(2), [Inverse(Planar(2))])
    x, log_prob = flow.sample_and_log_prob(noise(4).float())
    (x.square().sum() + log_prob.sum()).backward()
    assert flow.bijector.bijectors[0].bijector.u.grad.abs().sum() > 0


def test_initialisation_normalises_the_data():
    flow = Flow(DiagonalGaussian(2), [ActNorm(2)])
    x = 3 * noise(100).float() + 5
    flow.initialize(x)
    z, logdet = flow.encode(x)
    assert z.mean(0).abs().max() < 1e-5
    assert torch.allclose(logdet, torch.full((100,), -x.std(0, correction=0).log().sum().item()))
    assert flow(x).isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda flow: flow.log_prob(torch.zeros(4, 3)), r"data \[4, 3\] must be \[N, 2\]: the flow has 2 dimensions"),
        (lambda flow: flow.log_prob(torch.zeros(2)), r"data \[2\] must be \[N, 2\]"),
        (lambda flow: flow.decode(torch.zeros(4, 1)), r"latents \[4, 1\] must be"),
        (lambda flow: flow.sample(torch.zeros(4, 5)), r"noise \[4, 5\] must be"),
        (lambda flow: flow.log_prob(noise(4), noise(3)), r"context \[3, 2\] must be \[N, K\] with N = 4"),
        (lambda flow: flow.initialize(torch.tensor([[0.0, math.nan], [1.0, 2.0]])), "1 of 2 examples have NaN"),
    ],
)
def test_wrong_input_is_an_error_of_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(build())
    assert "\n" not in str(error.value)
