"""Every bijector passes one check, at initialisation and after its parameters moved."""

import copy

import pytest
import torch
from conftest import perturb

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.base import Composition
from glow.bijectors.conv1x1 import LUConv1x1, PlainConv1x1
from glow.bijectors.coupling import AdditiveCoupling, AffineCoupling
from glow.bijectors.split import SplitPrior, TopPrior
from glow.bijectors.squeeze import Squeeze
from glow.nets import CouplingNet


def composition():
    return Composition(ActNorm(4), LUConv1x1(4), AffineCoupling(CouplingNet(2, 8, 4)))


BIJECTORS = {
    "actnorm": lambda: ActNorm(4),
    "lu": lambda: LUConv1x1(4),
    "plain": lambda: PlainConv1x1(4),
    "affine": lambda: AffineCoupling(CouplingNet(2, 8, 4)),
    "additive": lambda: AdditiveCoupling(CouplingNet(2, 8, 2)),
    "split": lambda: SplitPrior(4),
    "top": lambda: TopPrior(4),
    "squeeze": Squeeze,
    "composition": composition,
}


def build(name, size):
    """A float64 bijector with its ActNorms initialised and its parameters moved by noise of a size."""
    torch.manual_seed(0)
    bijector = BIJECTORS[name]().double()
    for module in bijector.modules():
        if isinstance(module, ActNorm):
            module.begin_initialization("it")
    bijector(examples(32))
    perturb(bijector, size)
    return bijector


def examples(count, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return 0.7 * torch.randn(count, 4, 4, 2, dtype=torch.float64, generator=rng) + 0.3


@pytest.mark.parametrize("size", [0.0, 0.3])
@pytest.mark.parametrize("name", BIJECTORS)
def test_bijector_is_exact(name, size):
    bijector, x = build(name, size), examples(3)
    z, logdet = bijector(x)
    back, inverse_logdet = bijector.inverse(z)
    assert z.dtype == logdet.dtype == inverse_logdet.dtype == torch.float64
    assert logdet.shape == inverse_logdet.shape == (3,)
    assert (back - x).abs().max() < 1e-9
    assert (logdet + inverse_logdet).abs().max() < 1e-9
    other, _ = bijector(examples(3, seed=2))
    assert (bijector(bijector.inverse(other)[0])[0] - other).abs().max() < 1e-9
    for row in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda v: bijector(v[None])[0].flatten(), x[row]).flatten(1)
        assert abs(torch.linalg.slogdet(jacobian).logabsdet - logdet[row]) < 1e-8


@pytest.mark.parametrize("name", BIJECTORS)
def test_examples_do_not_depend_on_each_other(name):
    bijector, x = build(name, 0.3), examples(4)
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
    assert bijector(examples(2).float())[1].dtype == torch.float32


def test_actnorm_initialisation_normalises_every_channel():
    actnorm, x = ActNorm(4).double(), 3 * examples(64) + 2
    actnorm.begin_initialization("it")
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


def test_lu_weight_equals_plain_weight_at_initialisation():
    torch.manual_seed(3)
    lu = LUConv1x1(12).double()
    torch.manual_seed(3)
    plain = PlainConv1x1(12).double()
    assert torch.allclose(lu.weight(), plain.weight(), atol=1e-6)
    assert abs(plain.log_abs_det()) < 1e-5


def test_permutation_and_signs_are_no_parameters():
    lu = LUConv1x1(4)
    assert {name for name, _ in lu.named_parameters()} == {"lower", "upper", "log_s"}
    assert {name for name, _ in lu.named_buffers()} == {"permutation", "sign"}


@pytest.mark.parametrize("name", ["lu", "plain"])
def test_cached_inverse_is_never_stale(name):
    conv, other = build(name, 0.2).eval(), build(name, 0.2)
    perturb(other, 0.5, seed=9)
    x = examples(2)

    def round_trips():
        with torch.no_grad():
            return (conv.inverse(conv(x)[0])[0] - x).abs().max() < 1e-9

    assert round_trips()
    conv.load_state_dict(other.state_dict())
    assert round_trips()
    optimizer = torch.optim.SGD(conv.parameters(), lr=1e-3)
    conv(x)[0].square().sum().backward()
    optimizer.step()
    assert round_trips()
    for parameter in conv.parameters():
        parameter.data = parameter.data + 0.1
    assert round_trips()
    assert conv._cached is not None
    twin = copy.deepcopy(conv)
    perturb(conv, 0.3, seed=4)
    assert round_trips()
    conv = twin
    assert round_trips()


def test_cached_inverse_is_reused():
    conv = build("lu", 0.2)
    with torch.no_grad():
        conv.inverse(examples(1))
        assert conv._cached is None  # training mode: whatever an optimiser does, nothing can be stale
        conv.eval().inverse(examples(1))
        first = conv._cached[2]
        conv.inverse(examples(1))
    assert conv._cached[2] is first


def test_inverse_is_differentiable():
    conv, z = build("lu", 0.2), examples(2)
    conv.inverse(z)[0].sum().backward()
    assert conv.lower.grad.abs().sum() > 0


def test_inverse_weight_is_computed_in_float64():
    torch.manual_seed(0)
    conv = LUConv1x1(96)
    with torch.no_grad():
        conv.log_s[:48] -= 3
        error = conv._inverse_weight().double() @ conv.weight().double() - torch.eye(96)
        single = torch.linalg.inv(conv.weight()).double() @ conv.weight().double() - torch.eye(96)
    assert error.abs().max() < single.abs().max()


def test_log_scale_of_affine_coupling_does_not_underflow():
    coupling = build("affine", 0.0)
    with torch.no_grad():
        coupling.net.conv3.bias[2:] = -200.0
    z, logdet = coupling(examples(2))
    assert logdet.isfinite().all()
    assert (logdet + 198 * 16).abs().max() < 1
    assert z.isfinite().all()


def test_first_half_passes_through_a_coupling():
    x = examples(2)
    assert torch.equal(build("affine", 0.3)(x)[0][:, :2], x[:, :2])


def test_coupling_net_starts_at_zero_and_folds_its_actnorm_exactly():
    net = build("additive", 0.0).net
    x = examples(3)[:, :2]
    assert torch.equal(net(x), torch.zeros_like(net(x)))
    perturb(net, 0.3)
    conv = net.conv1
    unfolded = conv.actnorm(torch.nn.functional.conv2d(x, conv.weight, padding=1))[0]
    assert torch.allclose(conv(x), unfolded, atol=1e-12)
