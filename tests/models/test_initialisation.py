"""Data-dependent initialisation of a whole model."""

import copy

import pytest
import torch
from conftest import perturb, random_inputs, tiny_config, tiny_glow

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


@pytest.mark.parametrize(
    "changes",
    [
        {"coupling": "affine", "class_conditional": True, "num_classes": 3},
        {"dequantization": "variational", "dequantization_steps": 1, "network_padding": "indicator"},
    ],
    ids=str,
)
def test_microbatches_initialise_as_the_whole_batch_does(changes):
    config = tiny_config(**changes)
    inputs = random_inputs(config, 11)
    torch.manual_seed(0)
    whole = Glow(config).double()
    perturb(whole)  # so that couplings are not the identity
    parts = copy.deepcopy(whole)
    whole.initialize(*inputs)
    parts.initialize(*inputs, microbatch_size=4)
    for (name, expected), actual in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.allclose(actual.double(), expected.double(), rtol=1e-11, atol=1e-12), name
    assert torch.allclose(parts(*inputs), whole(*inputs), rtol=1e-12)
