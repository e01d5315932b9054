"""The density of discrete images sums to one: enumerated, and by sampling."""

import math
from itertools import product

import pytest
import torch
from conftest import perturb, random_inputs

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.conv1x1 import LUConv1x1
from glow.bijectors.coupling import AffineCoupling
from glow.bijectors.mixture import MixtureCoupling
from glow.config import ModelConfig
from glow.models.dequantization import VariationalDequantizer
from glow.models.glow import Glow
from glow.models.priors import SplitPrior, TopPrior

CONDITIONAL = {"class_conditional": True, "num_classes": 3}


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
