"""Mixture couplings: the inverse far into the tails, and its gradient."""

import pytest
import torch

from glow.bijectors.mixture import MixtureCoupling


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_mixture_coupling_is_inverted_far_into_its_tails(dtype, tolerance, spread):
    rng = torch.Generator().manual_seed(0)
    coupling = MixtureCoupling(torch.nn.Identity(), num_mixtures=8).to(dtype)
    parameters = spread * torch.randn(16, coupling.num_parameters * 2, 8, 8, dtype=torch.float64, generator=rng)
    z = torch.cat([torch.randn(8, 2, 8, 8, generator=rng), torch.linspace(-30, 30, 8 * 2 * 64).view(8, 2, 8, 8)])
    parameters, z = parameters.to(dtype), z.to(dtype)
    x, inverse_logdet = coupling.inverse_transform(z, parameters)
    again, logdet = coupling.transform(x, parameters)
    usual = z.abs() < 5
    assert ((again - z).abs()[usual] <= tolerance).all()
    # A float32 x has neighbours a rounding error apart, which the map may pull apart by its slope.
    rounding = torch.finfo(dtype).eps * x.abs() * logdet.exp()
    assert ((again - z).abs() - rounding <= tolerance * z.abs().clamp(min=1)).all()
    assert (logdet + inverse_logdet).abs().max() < tolerance
    back, _ = coupling.inverse_transform(again, parameters)
    is_steep = logdet.exp() > 0.01
    assert is_steep.float().mean() > 0.5
    assert ((back - x).abs()[is_steep] <= 100 * tolerance).all()


def test_mixture_coupling_loses_neither_tail():
    coupling = MixtureCoupling(torch.nn.Identity(), num_mixtures=4)
    parameters = torch.zeros(1, coupling.num_parameters, 1, 2)
    x = torch.tensor([-200.0, 200.0]).view(1, 1, 1, 2)
    z, logdet = coupling.transform(x, parameters)
    # Far out F is the mean of exp(x - mean) over the components: slope 1.
    offset = coupling.first_means.exp().mean().log()
    assert torch.allclose(z, x + torch.tensor([1.0, -1.0]) * offset, atol=1e-3)
    assert logdet.abs().max() < 1e-4


def test_inverse_of_a_mixture_coupling_has_the_right_gradient():
    rng = torch.Generator().manual_seed(0)
    coupling = MixtureCoupling(torch.nn.Identity(), num_mixtures=3).double()
    parameters = torch.randn(2, coupling.num_parameters, 1, 2, dtype=torch.float64, generator=rng, requires_grad=True)
    z = torch.randn(2, 1, 1, 2, dtype=torch.float64, generator=rng, requires_grad=True)
    assert torch.autograd.gradcheck(coupling.inverse_transform, (z, parameters), atol=1e-6)
