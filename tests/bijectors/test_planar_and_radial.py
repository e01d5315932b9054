"""Planar and radial flows: invertible whatever is learned."""

import pytest
import torch
from conftest import perturb
from exactness import examples

from glow.bijectors.base import Inverse
from glow.bijectors.planar import Planar
from glow.bijectors.radial import Radial


@pytest.mark.parametrize("make", [Planar, Radial])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1.0, 10.0, 30.0])
def test_whatever_is_learned_a_planar_or_radial_flow_is_invertible(make, dtype, size):
    x = 3 * examples(50, shape=(3,)).to(dtype)
    for seed in range(20):
        torch.manual_seed(seed)
        flow = make(3).to(dtype)
        perturb(flow, size, seed)
        z, logdet = flow(x)
        back, inverse_logdet = flow.inverse(z)
        assert logdet.isfinite().all()
        assert inverse_logdet.isfinite().all()
        # z comes back to rounding; x only as far as z determines it.
        rounding = torch.finfo(dtype).eps * (1 + z.abs().amax() + x.abs().amax())
        assert ((flow(back)[0] - z).abs() <= 1e3 * size * rounding).all()
        is_steep = logdet > -2
        assert ((back - x)[is_steep].abs() <= 1e4 * size * rounding).all()


def test_the_paper_s_constraint_is_met_by_the_parametrisation():
    planar, radial = Planar(2), Radial(2)
    with torch.no_grad():
        planar.w.copy_(torch.tensor([1.0, 2.0]))
        planar.u.copy_(-planar.w)
        radial.raw_sum.fill_(-5)
    u, slope = planar._constrained()
    assert -1 < planar.w @ u < -0.98
    assert torch.allclose(1 + planar.w @ u, slope, atol=1e-5)
    beta = torch.nn.functional.softplus(radial.raw_sum) - torch.nn.functional.softplus(radial.raw_alpha)
    offset = torch.tensor([[1e-3, 0.0]])
    moved = radial(radial.center + offset)[0] - radial.center
    assert torch.allclose(
        moved, offset * (1 + beta / (torch.nn.functional.softplus(radial.raw_alpha) + 1e-3)), atol=1e-6
    )


@pytest.mark.parametrize("make", [Planar, Radial])
def test_planar_and_radial_flows_begin_as_the_identity(make):
    x = examples(5, shape=(3,)).float()
    z, logdet = make(3)(x)
    assert torch.allclose(z, x, atol=1e-6)
    assert logdet.abs().max() < 1e-6


@pytest.mark.parametrize("make", [Planar, Radial])
def test_inverse_of_planar_and_radial_flows_has_the_right_gradient(make):
    torch.manual_seed(0)
    flow = make(3).double()
    perturb(flow, 0.5)
    names, values = zip(*flow.named_parameters(), strict=True)
    z = examples(4, shape=(3,)).requires_grad_()

    def inverse(z, *parameters):
        turned = Inverse(flow)
        return torch.func.functional_call(
            turned, {f"bijector.{n}": v for n, v in zip(names, parameters, strict=True)}, z
        )

    assert torch.autograd.gradcheck(inverse, (z, *values), atol=1e-6)


def test_planar_flow_at_its_singular_point_stays_finite():
    planar, x = Planar(2), examples(3, shape=(2,)).float()
    with torch.no_grad():
        planar.w.zero_()
        planar.u.fill_(1.0)
    z, logdet = planar(x)
    assert z.isfinite().all()
    assert torch.equal(logdet, torch.zeros(3))
    assert torch.allclose(planar.inverse(z)[0], x)
