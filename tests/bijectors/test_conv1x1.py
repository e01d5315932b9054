"""Invertible 1x1 convolutions: their weights, and the inverse that is kept."""

import copy

import pytest
import torch
from conftest import perturb
from exactness import build, examples

from glow.bijectors.conv1x1 import LUConv1x1, PlainConv1x1


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


@pytest.mark.parametrize("name", ["lu", "plain", "orthogonal", "step lu"])
def test_what_is_kept_of_parameters_is_never_stale(name):
    conv, other = build(name, 0.2).eval(), build(name, 0.2)
    perturb(other, 0.5, seed=9)
    x = examples(2)

    def round_trips():
        with torch.no_grad():
            return (conv.inverse(conv(x)[0])[0] - x).abs().max() < 1e-9

    assert round_trips()
    conv.load_state_dict(other.state_dict())
    assert round_trips()
    for how in ({"foreach": True}, {"fused": True}):
        optimizer = torch.optim.Adam(conv.parameters(), lr=1e-2, **how)
        conv(x)[0].square().sum().backward()
        optimizer.step()
        assert round_trips()
    for parameter in conv.parameters():
        parameter.data = parameter.data + 0.1
    assert round_trips()
    for module in conv.modules():
        for own, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, own, torch.nn.Parameter(parameter.detach() + 0.1))
    assert round_trips()
    twin = copy.deepcopy(conv)
    perturb(conv, 0.03, seed=4)
    assert round_trips()
    conv = twin
    assert round_trips()


def test_inverse_weight_is_kept_in_eval_mode_alone():
    conv = build("lu", 0.2).train()
    with torch.no_grad():
        # In training mode nothing can be stale, whatever an optimiser does.
        assert conv.inverse_weight() is not conv.inverse_weight()
        kept = conv.eval().inverse_weight()
        assert conv.eval().inverse_weight() is kept  # eval() where the mode is eval changes nothing
        assert conv.train().eval().inverse_weight() is not kept
        conv.may_reuse = False
        assert conv.inverse_weight() is not conv.inverse_weight()
    conv.may_reuse = True
    assert conv.inverse_weight() is not conv.inverse_weight()


def test_inverse_is_differentiable():
    conv, z = build("lu", 0.2), examples(2)
    conv.inverse(z)[0].sum().backward()
    assert conv.lower.grad.abs().sum() > 0


def test_inverse_weight_is_computed_in_float64():
    torch.manual_seed(0)
    conv = LUConv1x1(96)
    with torch.no_grad():
        conv.log_s[:48] -= 3
        error = conv.compute_inverse_weight().double() @ conv.weight().double() - torch.eye(96)
        single = torch.linalg.inv(conv.weight()).double() @ conv.weight().double() - torch.eye(96)
    assert error.abs().max() < single.abs().max()
