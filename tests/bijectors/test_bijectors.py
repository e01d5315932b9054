"""Every bijector passes one check, at initialisation and after its parameters moved."""

import pytest
import torch
from conftest import perturb
from exactness import BIJECTORS, CONDITIONAL, Given, build, check_exact, examples, shape_of, vector_coupling

from glow.bijectors.actnorm import ActNorm, initialize_actnorms
from glow.bijectors.base import Inverse
from glow.bijectors.batchnorm import BatchNorm
from glow.bijectors.mask import ChannelMask, CheckerboardMask
from glow.bijectors.mixture import MixtureCoupling
from glow.bijectors.planar import Planar
from glow.bijectors.radial import Radial


@pytest.mark.parametrize("size", [0.0, 0.3, "trained"])
@pytest.mark.parametrize("name", BIJECTORS)
def test_bijector_is_exact(name, size):
    check_exact(build(name, size), shape=shape_of(name))


@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditional_bijector_is_exact_given_its_context(name):
    torch.manual_seed(0)
    bijector = CONDITIONAL[name]().double()
    context = torch.eye(3, dtype=torch.float64)[:, :, None, None]
    initialize_actnorms(bijector, examples(3), context)
    perturb(bijector, 0.05)
    with pytest.raises(ValueError, match="it needs labels"):
        bijector(examples(3))
    outputs = [bijector(examples(1), context[row : row + 1])[0] for row in range(3)]
    assert not torch.allclose(outputs[0], outputs[1])

    check_exact(Given(bijector, context), rows=1)


@pytest.mark.parametrize("kind", ["affine", "additive", "mixture"])
def test_conditional_bijector_of_vectors_is_exact_given_its_context(kind):
    bijector = vector_coupling(kind, 5, 1, context_features=3).double()
    perturb(bijector, 0.1)
    context = torch.eye(3, dtype=torch.float64)
    outputs = [bijector(examples(1, shape=(5,)), context[row : row + 1])[0] for row in range(3)]
    assert not torch.allclose(outputs[0], outputs[1])
    check_exact(Given(bijector, context), rows=1, shape=(5,))
    with pytest.raises(ValueError, match="it needs a context"):
        bijector(examples(3, shape=(5,)))
    with pytest.raises(ValueError, match=r"context \[3, 2\] must be \[N, 3\]"):
        bijector(examples(3, shape=(5,)), context[:, :2])


@pytest.mark.parametrize("name", BIJECTORS)
def test_examples_do_not_depend_on_each_other(name):
    bijector, x = build(name, 0.3), examples(4, shape=shape_of(name))
    z, logdet = bijector(x)
    changed = x.clone()
    changed[0] += 1
    z_changed, logdet_changed = bijector(changed)
    assert torch.allclose(z[1:], z_changed[1:], atol=1e-12)
    assert torch.allclose(logdet[1:], logdet_changed[1:], atol=1e-12)
    assert not torch.equal(z[0], z_changed[0])


@pytest.mark.parametrize("name", BIJECTORS)
def test_logdet_of_float32_input_is_float32(name):
    bijector = build(name, 0.1).float()
    assert bijector(examples(2, shape=shape_of(name)).float())[1].dtype == torch.float32


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
    actnorm.begin_initialization("chain.7.actnorm")
    with pytest.warns(UserWarning, match=r"chain\.7\.actnorm: constant input in channel 0"):
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


def test_log_scale_of_affine_coupling_does_not_underflow():
    coupling = build("affine sigmoid", 0.0)
    with torch.no_grad():
        coupling.net.conv3.bias[2:] = -200.0
    z, logdet = coupling(examples(2))
    assert logdet.isfinite().all()
    assert (logdet + 198 * 16).abs().max() < 1
    assert z.isfinite().all()


def test_first_half_passes_through_a_coupling():
    x = examples(2)
    assert torch.equal(build("affine sigmoid", 0.3)(x)[0][:, :2], x[:, :2])


def test_coupling_net_starts_at_zero_and_folds_its_actnorm_exactly():
    net = build("affine sigmoid", 0.0).net
    x = examples(3)[:, :2]
    assert torch.equal(net(x), torch.zeros_like(net(x)))
    perturb(net, 0.3)
    conv = net.conv1
    unfolded = conv.actnorm(torch.nn.functional.conv2d(x, conv.weight, padding=1))[0]
    assert torch.allclose(conv(x), unfolded, atol=1e-12)


# The inverse of mixture couplings


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


def test_checkerboard_keeps_every_other_pixel():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    for parity in (0, 1):
        mask = CheckerboardMask(parity)
        x_a, x_b = mask.split(x)
        assert torch.equal(mask.join(x_a, x_b), x)
        rows, columns = torch.arange(4)[:, None], torch.arange(4)
        is_given = (rows + columns + parity) % 2 == 0
        assert torch.equal(mask.given(x_a)[0, 0], x[0, 0] * is_given)
        assert sorted(mask.changed(x).flatten().tolist()) == x[0, 0][~is_given].tolist()


# Planar and radial flows, and batch norm


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


def test_inverse_turns_a_map_around():
    planar, x = Planar(3).double(), examples(4, shape=(3,))
    perturb(planar, 0.5)
    turned = Inverse(planar)
    assert all(torch.equal(a, b) for a, b in zip(turned.inverse(x), planar(x), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(turned(x), planar.inverse(x), strict=True))


def test_halves_of_an_odd_vector_are_changed_in_turn():
    x = torch.arange(5.0)[None]
    for parity, given in ((0, [0, 1, 2]), (1, [3, 4])):
        mask = ChannelMask(parity)
        x_a, x_b = mask.split(x)
        assert x_a[0].tolist() == given
        assert mask.sizes(5) == (len(given), 5 - len(given))
        assert torch.equal(mask.join(x_a, x_b), x)
