"""The whole model: exact density, encode and decode, sampling."""

import math

import pytest
import torch
from conftest import random_inputs, tiny_config, tiny_glow
from variants import VARIANTS

from glow.config import ModelConfig
from glow.execution.precision import set_compute_dtype
from glow.models.glow import Glow, standard_normal_log_prob
from glow.models.images import log_volume


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


def test_latents_of_the_prior_are_part_of_the_density():
    model = tiny_glow()
    images, noise = random_inputs(model.config, 2)
    before = model(images, noise)
    with torch.no_grad():
        model.chain[-1].bijector.mean += 1
    assert (model(images, noise) - before).abs().min() > 1e-3


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


def test_model_without_shape_and_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"model\.image_shape is not set"):
        Glow(ModelConfig())
    model = tiny_glow()
    with pytest.raises(ValueError, match=r"\[2, 3, 8, 4\].*must both be \[N, C, H, W\]"):
        model(torch.zeros(2, 3, 8, 4, dtype=torch.uint8), torch.full((2, 3, 8, 4), 0.5))
