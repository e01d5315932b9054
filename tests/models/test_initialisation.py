"""Data-dependent initialisation of a whole model."""

import copy

import numpy as np
import pytest
import torch
from conftest import perturb, random_inputs, tiny_config, tiny_glow

from glow.bijectors.conv1x1 import LUConv1x1
from glow.bijectors.initialization import whiten
from glow.bijectors.step import FlowStep
from glow.models.glow import Glow


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


@pytest.mark.parametrize("whitens", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"coupling": "affine", "class_conditional": True, "num_classes": 3},
        {"dequantization": "variational", "dequantization_steps": 1, "network_padding": "indicator"},
    ],
    ids=str,
)
def test_microbatches_initialise_as_the_whole_batch_does(changes, whitens):
    config = tiny_config(**changes)
    inputs = random_inputs(config, 11)
    torch.manual_seed(0)
    whole = Glow(config).double()
    perturb(whole)  # so that couplings are not the identity
    parts = copy.deepcopy(whole)
    whole.initialize(*inputs, whitens=whitens)
    parts.initialize(*inputs, microbatch_size=4, whitens=whitens)
    for (name, expected), actual in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.allclose(actual.double(), expected.double(), rtol=1e-11, atol=1e-12), name
    assert torch.allclose(parts(*inputs), whole(*inputs), rtol=1e-12)


@pytest.mark.parametrize("permutation", ["lu", "plain"])
def test_whitening_decorrelates_the_first_step_of_each_level_alone(permutation):
    config = tiny_config(permutation=permutation, num_levels=2, num_steps_per_level=2)
    torch.manual_seed(0)
    model = Glow(config).double()
    images, noise = random_inputs(config, 64)
    images = images // 2 + images.flip(3) // 2 + 3  # correlated channels, of another scale
    rotations = {index: unit.bijector.bijectors[1].weight().detach().clone() for index, unit in steps(model)}
    model.initialize(images, noise, whitens=True)
    x = model.dequantize(images, noise)[0]
    checked = 0
    for index, unit in enumerate(model.chain):
        if index in rotations:
            actnorm, conv, _ = unit.bijector.bijectors
            pixels = conv(actnorm(x)[0])[0].movedim(1, 0).flatten(1)
            is_first = index in {level[1] for level in model.levels}
            assert torch.allclose(conv.weight(), rotations[index], atol=1e-6) != is_first
            if is_first:
                assert (pixels.mean(1).abs() < 1e-10).all()
                covariance = torch.cov(pixels, correction=0)
                assert torch.allclose(covariance, torch.eye(len(covariance)).double(), atol=1e-5)
                checked += 1
        x = unit.encode(x)[0]
    assert checked == 2


def test_whitened_directions_come_by_variance_and_with_one_sign():
    torch.manual_seed(0)
    mixed = torch.randn(4, 4, dtype=torch.float64) @ torch.randn(4, 1000, dtype=torch.float64) + 5
    x = mixed.T.reshape(10, 10, 10, 4).movedim(3, 1)
    conv = LUConv1x1(4)
    whiten(conv, lambda: x.split(3))
    std = mixed.std(1, correction=0)
    correlation = np.corrcoef(mixed.numpy())
    variances, directions = np.linalg.eigh(correlation)
    weight = conv.weight().detach().double().numpy()
    for row, variance, direction in zip(weight, variances[::-1], directions.T[::-1], strict=True):
        expected = direction * np.sign(direction[np.abs(direction).argmax()]) / np.sqrt(variance)
        assert np.allclose(row, expected, atol=1e-5)
    turned = LUConv1x1(4)
    whiten(turned, lambda: [(x - 5) * std.view(1, -1, 1, 1).reciprocal()])  # means and scales are those of ActNorm
    assert torch.allclose(turned.weight(), conv.weight(), atol=1e-5)


def test_whitening_of_constant_images_stays_finite():
    config = tiny_config()
    images = torch.zeros(4, *config.image_shape, dtype=torch.uint8)
    noise = torch.full(images.shape, 0.5)
    model = Glow(config)
    with pytest.warns(UserWarning, match="constant input"):
        model.initialize(images, noise, whitens=True)
    assert model(images, noise).isfinite().all()


def steps(model):
    return [(index, unit) for index, unit in enumerate(model.chain) if isinstance(unit.bijector, FlowStep)]
