"""Bit depths, dequantisation and the bits/dim constant."""

import math

import pytest
import torch

from glow.models.images import bits_per_dim, dequantize, log_volume, quantize, reduce_bits

BITS = range(1, 9)
EVERY_PIXEL = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)


@pytest.mark.parametrize("num_bits", BITS)
def test_identity_flow_has_the_bits_of_a_uniform_distribution(num_bits):
    # A uniform density on the data cube gives every discrete image probability 2^(-bits * dims).
    log_prob = torch.tensor([0.0 + log_volume(3 * 32 * 32, num_bits)])
    assert bits_per_dim(log_prob, 3 * 32 * 32).item() == pytest.approx(num_bits, abs=1e-6)


@pytest.mark.parametrize("num_bits", BITS)
def test_standard_normal_flow_has_its_analytic_bits_per_dim(num_bits):
    noise = torch.full(EVERY_PIXEL.shape, 0.5, dtype=torch.float64)
    x = dequantize(EVERY_PIXEL, noise, num_bits)
    log_prob = (-0.5 * x.square() - 0.5 * math.log(2 * math.pi)).sum() + log_volume(256, num_bits)
    levels = [((k >> (8 - num_bits)) + 0.5) / 2**num_bits - 0.5 for k in range(256)]
    expected = sum(0.5 * v * v + 0.5 * math.log(2 * math.pi) for v in levels) / (256 * math.log(2)) + num_bits
    assert bits_per_dim(log_prob, 256).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_bits", BITS)
def test_there_are_exactly_two_to_the_bits_levels(num_bits):
    levels = reduce_bits(EVERY_PIXEL, num_bits)
    assert levels.dtype == torch.uint8
    assert levels.unique().tolist() == list(range(2**num_bits))
    assert levels.flatten().bincount().unique().tolist() == [2 ** (8 - num_bits)]


@pytest.mark.parametrize("num_bits", BITS)
@pytest.mark.parametrize("noise", [1e-6, 0.5, 1 - 1e-6])
def test_levels_survive_dequantisation_and_quantisation(num_bits, noise):
    x = dequantize(EVERY_PIXEL, torch.full(EVERY_PIXEL.shape, noise, dtype=torch.float64), num_bits)
    images = quantize(x, num_bits)
    assert torch.equal(reduce_bits(images, num_bits), reduce_bits(EVERY_PIXEL, num_bits))
    assert images.flatten()[0] == 0
    assert images.flatten()[-1] == 255


def test_noise_never_moves_a_pixel_into_the_next_level():
    every_noise = (torch.arange(2**15) + 0.5) / 2**15
    for level in (0, 1, 127, 128, 200, 254, 255):
        images = torch.full((1, 1, 1, 2**15), level, dtype=torch.uint8)
        assert (quantize(dequantize(images, every_noise.view(1, 1, 1, -1), 8), 8) == level).all()


def test_values_outside_the_data_range_go_to_its_ends():
    assert quantize(torch.tensor([-7.0, -0.51, 0.5, 0.51, 7.0]), 5).tolist() == [0, 0, 255, 255, 255]


def test_dequantisation_leaves_its_arguments_alone():
    images, noise = EVERY_PIXEL.clone(), torch.full(EVERY_PIXEL.shape, 0.25)
    dequantize(images, noise, 3)
    assert torch.equal(images, EVERY_PIXEL)
    assert (noise == 0.25).all()


def test_images_that_are_not_uint8_are_refused():
    with pytest.raises(ValueError, match=r"uint8, not torch\.float32"):
        dequantize(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 8)
