"""The whole model: exact density, normalisation, encode and decode, sampling."""

import math
from itertools import product

import pytest
import torch
from conftest import perturb, random_inputs, tiny_config, tiny_glow
from variants import VARIANTS

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.conv1x1 import LUConv1x1
from glow.bijectors.coupling import AffineCoupling, Coupling, exp_log_scale, sigmoid_log_scale, tanh_log_scale
from glow.bijectors.mixture import MixtureCoupling
from glow.config import ModelConfig
from glow.execution.precision import set_compute_dtype
from glow.models.dequantization import VariationalDequantizer
from glow.models.glow import Glow, standard_normal_log_prob
from glow.models.images import log_volume
from glow.models.priors import BorderTopPrior, Identity, SplitPrior, TopPrior

CONDITIONAL = {"class_conditional": True, "num_classes": 3}


@pytest.mark.parametrize("changes", VARIANTS)
def test_log_prob_is_the_change_of_variables_formula(changes):
    model = tiny_glow(**changes)
    images, noise, *labels = random_inputs(model.config, 3)
    x, log_volume_of_noise = model.dequantize(images, noise)
    latents, logdet = model.encode(x, *labels)
    normal = sum(standard_normal_log_prob(latent) for latent in latents)
    assert torch.allclose(model(images, noise, *labels), normal + logdet + log_volume_of_noise, rtol=1e-12)

    def flat_encode(v):
        first = (values[:1] for values in labels)
        return torch.cat([latent.flatten() for latent in model.encode(v[None], *first)[0]])

    jacobian = torch.autograd.functional.jacobian(flat_encode, x[0]).reshape(model.num_dims, model.num_dims)
    assert abs(torch.linalg.slogdet(jacobian).logabsdet - logdet[0]) < 1e-8


@pytest.mark.parametrize("changes", VARIANTS)
def test_decode_undoes_encode(changes):
    model = tiny_glow(**changes)
    images, noise, *labels = random_inputs(model.config, 3)
    x, _ = model.dequantize(images, noise)
    latents, _ = model.encode(x, *labels)
    assert [tuple(latent.shape[1:]) for latent in latents] == model.latent_shapes
    assert sum(math.prod(shape) for shape in model.latent_shapes) == model.num_dims
    assert (model.decode(latents, *labels) - x).abs().max() < 1e-9


@pytest.mark.parametrize("changes", VARIANTS)
def test_images_do_not_depend_on_each_other(changes):
    model = tiny_glow(**changes)
    inputs = random_inputs(model.config, 4)
    alone = torch.cat([model(*(values[row : row + 1] for values in inputs)) for row in range(4)])
    assert torch.allclose(model(*inputs), alone, rtol=1e-10)


def first_class(model, count):
    return torch.zeros(count, dtype=torch.int64) if model.num_classes else None


def mass_by_enumeration(model, draws, generator):
    """Sum over all images of E_u[p(x + u)], and its standard error."""
    levels = [(k << (8 - model.config.num_bits)) for k in range(2**model.config.num_bits)]
    images = torch.tensor(list(product(levels, repeat=model.num_dims)), dtype=torch.uint8)
    images = images.reshape(-1, *model.image_shape)
    sums = torch.zeros(2, len(images), dtype=torch.float64)
    at_once = max(1, min(draws, 2**15 // len(images)))
    draws -= draws % at_once
    for _ in range(draws // at_once):
        repeated = images.repeat(at_once, 1, 1, 1)
        noise = torch.rand(repeated.shape, dtype=torch.float64, generator=generator)
        density = model(repeated, noise, first_class(model, len(repeated))).exp().reshape(at_once, len(images))
        sums += torch.stack([density.sum(0), density.square().sum(0)])
    mean, square = sums / draws
    return mean.sum().item(), ((square - mean.square()).clamp(min=0) / (draws - 1)).sum().sqrt().item()


def mass_by_sampling(model, count, generator):
    """Share of the model's samples inside the data cube, and its standard error."""
    inside = 0
    for _ in range(count // 50_000):
        latents = [torch.randn(50_000, *s, dtype=torch.float64, generator=generator) for s in model.latent_shapes]
        x = model.decode(latents, first_class(model, 50_000))
        inside += (x.abs() < 0.5).flatten(1).all(1).sum().item()
    share = inside / count
    return share, math.sqrt(share * (1 - share) / count)


# The mean of p / q over the noise has heavy tails where q is far from uniform: no number of draws would do.
DEQUANTIZER_SIZE = 0.03


def discrepancy(config, draws, size=0.1):
    """Compute the mass inside the data cube in two ways; return their difference in standard errors, and the mass.

    A flow onto Gaussian latents puts some mass outside the cube. What lies inside is, on one hand, the sum over all
    discrete images of the mean over the noise of their density, on the other the share of the model's own samples that
    fall inside.
    """
    torch.manual_seed(0)
    model = Glow(config).double()
    model.initialize(*random_inputs(config, 512))
    perturb(model.chain, size)
    if model.dequantizer is not None:
        perturb(model.dequantizer, DEQUANTIZER_SIZE)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        enumerated, error = mass_by_enumeration(model, draws, generator)
        # A mixture coupling is inverted by iteration.
        count = 2 * 10**5 if config.coupling == "mixture" else 10**6
        sampled, sampling_error = mass_by_sampling(model, count, generator)
    return abs(enumerated - sampled) / math.hypot(error, sampling_error), sampled


TINY = {"num_levels": 1, "num_steps_per_level": 2, "hidden_channels": 4}
NORMALISATION_CASES = [
    (ModelConfig(image_shape=(1, 2, 2), num_bits=1, **TINY), 4000),
    (ModelConfig(image_shape=(1, 2, 2), num_bits=2, **TINY), 1000),
    (ModelConfig(image_shape=(1, 2, 2), num_bits=1, **TINY, coupling="additive", permutation="plain"), 4000),
    (ModelConfig(image_shape=(1, 4, 4), num_bits=1, **(TINY | {"num_levels": 2, "num_steps_per_level": 1})), 8),
    (ModelConfig(image_shape=(1, 2, 4), num_bits=1, **TINY, mask="checkerboard"), 500),
    *(
        (ModelConfig(image_shape=(1, 2, 2), num_bits=1, **TINY, **changes), draws, size)
        for changes, draws, size in (
            ({"coupling": "mixture", "num_mixtures": 3}, 4000, 0.2),
            ({"coupling": "mixture", "network": "gated", "num_network_blocks": 1, "permutation": "shuffle"}, 1000, 0.1),
            ({"scale": "exp", "permutation": "orthogonal"}, 1000, 0.1),
            (
                {"scale": "tanh", "permutation": "reverse", "split_prior": "standard", "top_prior": "standard"},
                1000,
                0.1,
            ),
            ({"dequantization": "variational", "dequantization_steps": 2}, 16000, 0.1),
            ({**CONDITIONAL, "network_padding": "indicator", "top_prior": "border"}, 1000, 0.1),
        )
    ),
]


@pytest.mark.parametrize("case", NORMALISATION_CASES)
def test_density_is_normalised(case):
    errors, mass = discrepancy(*case)
    assert 0.001 < mass < 0.999
    assert errors < 4


def wrong_actnorm(self, x):
    return self.log_scale.sum().expand(len(x))


def wrong_conv(self, x):
    return (-self.log_abs_det() * math.prod(x.shape[2:])).expand(len(x))


def wrong_coupling(self, x, context=None):
    z, logdet = right_coupling(self, x, context)
    return z, 0.5 * logdet


def wrong_split(self, x, context=None):
    z, logdet = right_split(self, x, context)
    return z, -logdet


def wrong_mixture(self, x, parameters):
    z, log_derivative = right_mixture(self, x, parameters)
    return z, -log_derivative


def wrong_dequantizer(self, images, noise):
    u, entropy = right_dequantizer(self, images, noise)
    return u, -entropy


def wrong_top(self, x, context=None):
    z, logdet = right_top(self, x, context)
    return z, -logdet


right_coupling, right_split, right_top = AffineCoupling.forward, SplitPrior.forward, TopPrior.forward
right_mixture, right_dequantizer = MixtureCoupling.transform, VariationalDequantizer.forward


@pytest.mark.parametrize(
    ("cls", "method", "wrong", "case"),
    [
        (ActNorm, "logdet", wrong_actnorm, 3),
        (LUConv1x1, "logdet", wrong_conv, 0),
        (AffineCoupling, "forward", wrong_coupling, 0),
        (SplitPrior, "forward", wrong_split, 3),
        (TopPrior, "forward", wrong_top, 0),
        (MixtureCoupling, "transform", wrong_mixture, 5),
        (VariationalDequantizer, "forward", wrong_dequantizer, 9),
    ],
)
def test_normalisation_test_notices_a_wrong_logdet(monkeypatch, cls, method, wrong, case):
    monkeypatch.setattr(cls, method, wrong)
    assert discrepancy(*NORMALISATION_CASES[case])[0] > 6


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
        ({}, lambda c: c.log_scale is sigmoid_log_scale),
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
        ({"top_prior": "border", "network_padding": "ones", **CONDITIONAL}, SplitPrior, BorderTopPrior),
    ):
        model = Glow(tiny_config(**shape, **changes))
        priors = [unit.bijector for unit in model.chain if unit.num_latent_channels]
        assert [type(prior) for prior in priors] == [split, split, top]
        if "class_conditional" in changes:
            assert all(prior.context is not None and prior.conv.padding == "ones" for prior in priors)


def test_latents_of_the_prior_are_part_of_the_density():
    model = tiny_glow()
    images, noise = random_inputs(model.config, 2)
    before = model(images, noise)
    with torch.no_grad():
        model.chain[-1].bijector.mean += 1
    assert (model(images, noise) - before).abs().min() > 1e-3


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


def test_parameter_names_are_those_of_a_flat_chain():
    model = Glow(tiny_config())
    assert len(model.chain) == 2 * (1 + 2 + 1)
    assert all(name.startswith("chain.") for name in model.state_dict())


def test_cumulative_log_prob_ends_in_the_log_prob():
    model = tiny_glow()
    inputs = random_inputs(model.config, 2)
    cumulative = model.cumulative_log_prob(*inputs)
    assert len(cumulative) == 3
    assert torch.equal(cumulative[-1], model(*inputs))
    assert cumulative[0][0].item() == pytest.approx(log_volume(model.num_dims, 8))


def test_forward_leaves_its_arguments_alone():
    model = tiny_glow()
    images, noise = random_inputs(model.config, 2)
    copies = images.clone(), noise.clone()
    model(images, noise)
    assert torch.equal(images, copies[0])
    assert torch.equal(noise, copies[1])


def test_temperature_zero_is_deterministic_and_independent_of_the_noise():
    model = tiny_glow(torch.float32)
    first, second = (model.sample(torch.randn(3, model.num_dims), 0) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, model.sample(torch.randn(3, model.num_dims), 1.0))


def test_sampling_leaves_the_log_prob_unchanged():
    model = tiny_glow(torch.float32)
    inputs = random_inputs(model.config, 4, torch.float32)
    before = model(*inputs)
    model.sample(torch.randn(4, model.num_dims), 0.3)
    assert torch.equal(model(*inputs), before)


def test_temperature_may_differ_by_level():
    model = tiny_glow(torch.float32)
    noise = torch.randn(2, model.num_dims)
    assert torch.equal(model.sample(noise, [0.7, 0.7]), model.sample(noise, 0.7))
    cold_details = model.sample(noise, [0.0, 0.7])
    noise[:, : math.prod(model.latent_shapes[0])] += 1
    assert torch.equal(model.sample(noise, [0.0, 0.7]), cold_details)
    with pytest.raises(ValueError, match="3 numbers for 2 levels"):
        model.sample(noise, [1.0, 1.0, 1.0])


def test_samples_of_latents_are_the_images_they_came_from():
    model = tiny_glow()
    images, noise = random_inputs(model.config, 3)
    latents, _ = model.encode(model.dequantize(images, noise)[0])
    flat = torch.cat([latent.flatten(1) for latent in latents], dim=1)
    assert torch.equal(model.sample(flat, 1), images)


def test_state_and_result_stay_float32_under_autocast():
    model = tiny_glow(torch.float32)
    inputs = random_inputs(model.config, 8, torch.float32)
    exact = model(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        outside = model(*inputs)
        latents, logdet = model.encode(model.dequantize(*inputs)[0])
        images = model.sample(torch.cat([latent.flatten(1) for latent in latents], dim=1), 1)
    assert outside.dtype == logdet.dtype == torch.float32
    assert torch.equal(images, inputs[0])
    assert torch.equal(outside, exact)
    set_compute_dtype(model, torch.bfloat16)
    half = model(*inputs)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    bits = (half - exact).mean().abs() / (model.num_dims * math.log(2))
    assert bits < 0.002


def test_initialisation_normalises_and_is_kept_by_a_checkpoint():
    config = tiny_config()
    model = Glow(config)
    with pytest.raises(RuntimeError, match="before its initialisation"):
        model(*random_inputs(config, 2, torch.float32))
    model.initialize(*random_inputs(config, 32, torch.float32))
    twin = Glow(config)
    twin.load_state_dict(model.state_dict())
    inputs = random_inputs(config, 2, torch.float32, seed=8)
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    assert torch.equal(twin(*inputs), model(*inputs))
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())


def test_initialisation_that_fails_leaves_nothing_to_a_later_forward():
    model = tiny_glow(torch.float32)
    inputs = random_inputs(model.config, 4, torch.float32)
    before = model(*inputs)
    with pytest.raises(ValueError, match="must both be"):
        model.initialize(torch.zeros(2, 3, 8, 4, dtype=torch.uint8), torch.full((2, 3, 8, 4), 0.5))
    assert torch.equal(model(*inputs), before)


def test_constant_images_initialise_with_a_warning_that_names_the_layer():
    config = tiny_config()
    images = torch.zeros(4, *config.image_shape, dtype=torch.uint8)
    noise = torch.full(images.shape, 0.5)
    model = Glow(config)
    with pytest.warns(UserWarning, match="constant input") as warnings:
        model.initialize(images, noise)
    assert str(warnings[0].message).startswith("chain.1.bijector.bijectors.0: constant input in channel 0, 1,")
    assert model(images, noise).isfinite().all()


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


def test_model_without_shape_and_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"model\.image_shape is not set"):
        Glow(ModelConfig())
    model = tiny_glow()
    with pytest.raises(ValueError, match=r"\[2, 3, 8, 4\].*must both be \[N, C, H, W\]"):
        model(torch.zeros(2, 3, 8, 4, dtype=torch.uint8), torch.full((2, 3, 8, 4), 0.5))
