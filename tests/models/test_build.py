"""Every option of the model's config reaches every level, and impossible ones are refused."""

import pytest
from conftest import tiny_config

from glow.bijectors.coupling import Coupling, exp_log_scale, sigmoid_log_scale, tanh_log_scale
from glow.models.glow import Glow
from glow.models.priors import BorderTopPrior, Identity, PixelPrior, SplitPrior, TopPrior

CONDITIONAL = {"class_conditional": True, "num_classes": 3}


def couplings(model):
    """The coupling of every step, level by level."""
    found, level = [[]], 0
    for unit in model.chain:
        found[level] += [module for module in unit.modules() if isinstance(module, Coupling)]
        if unit.num_latent_channels and unit is not model.chain[-1]:
            level += 1
            found.append([])
    return found


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({"scale": "exp"}, lambda c: c.log_scale is exp_log_scale),
        ({"scale": "tanh"}, lambda c: c.log_scale is tanh_log_scale),
        ({}, lambda c: c.log_scale is sigmoid_log_scale and not c.shifts_last and c.mask.parity == 0),
        ({"shift": "last"}, lambda c: c.shifts_last),
        ({"mask": "first_channels"}, lambda c: c.mask.parity == 1),
        ({"coupling": "mixture", "num_mixtures": 5}, lambda c: c.num_mixtures == 5),
        ({"network_actnorm": False}, lambda c: c.net.conv1.actnorm is None and c.net.conv2.actnorm is None),
        (
            {"network_padding": "indicator"},
            lambda c: c.net.conv1.padding == c.net.conv3.padding == "indicator",
        ),
        ({"network_padding": "ones"}, lambda c: (c.net.conv1.padding, c.net.conv3.padding) == ("zeros", "ones")),
        ({"network": "gated", "num_network_blocks": 3}, lambda c: len(c.net.layers) == 6),
        (CONDITIONAL, lambda c: c.net.context is not None),
        (CONDITIONAL | {"network": "gated"}, lambda c: c.net.context is not None),
        ({"hidden_channels": 12}, lambda c: c.net.conv2.weight.shape[0] == 12),
    ],
)
def test_every_option_reaches_the_coupling_of_every_step(changes, holds):
    config = tiny_config(image_shape=(3, 16, 16), num_levels=3, **changes)
    levels = couplings(Glow(config))
    assert [len(level) for level in levels] == [2, 2, 2]
    assert all(holds(coupling) for level in levels for coupling in level)


def test_masks_and_priors_reach_every_level():
    shape = {"image_shape": (3, 16, 16), "num_levels": 3}
    for level in couplings(Glow(tiny_config(**shape, mask="checkerboard"))):
        assert [coupling.mask.parity for coupling in level] == [0, 1]
    for changes, split, top in (
        ({}, SplitPrior, TopPrior),
        ({"split_prior": "standard"}, Identity, TopPrior),
        ({"top_prior": "standard"}, SplitPrior, Identity),
        ({"split_prior": "pixel", "top_prior": "pixel"}, PixelPrior, PixelPrior),
        ({"top_prior": "border", "network_padding": "ones", **CONDITIONAL}, SplitPrior, BorderTopPrior),
    ):
        model = Glow(tiny_config(**shape, **changes))
        priors = [unit.bijector for unit in model.chain if unit.num_latent_channels]
        assert [type(prior) for prior in priors] == [split, split, top]
        if "class_conditional" in changes:
            assert all(prior.context is not None and prior.conv.padding == "ones" for prior in priors)


def test_coupling_and_permutation_reach_every_level():
    for coupling, permutation, names in (
        ("affine", "lu", {"AffineCoupling", "LUConv1x1"}),
        ("additive", "plain", {"AdditiveCoupling", "PlainConv1x1"}),
    ):
        model = Glow(tiny_config(coupling=coupling, permutation=permutation))
        found = [
            type(m).__name__ for m in model.modules() if "Coupling" in type(m).__name__ or "Conv1x1" in type(m).__name__
        ]
        assert {name for name in found if name != "CouplingNet"} == names
        assert sum(name in names for name in found) == 2 * 2 * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (3, 10, 8)}, r"model\.image_shape: .*divisible by 2\^num_levels = 4"),
        ({"image_shape": (3, 8, 8), "num_bits": 9}, r"model\.num_bits: 9 is not allowed; give 1 to 8"),
        ({"image_shape": (3, 8)}, r"three positive numbers"),
        ({"num_levels": 0}, r"model\.num_levels: 0 is not allowed"),
    ],
)
def test_impossible_model_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**arguments)
