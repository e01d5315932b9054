"""Repair against answers that are known: a Glow that is a Gaussian by construction."""

import numpy as np
import pytest
import torch
from conftest import perturb, tiny_glow

import glow
from glow.editing.chains import effective_samples, hmc, split_r_hat
from glow.editing.repair import ascend, given_known, given_noisy, inpaint, log_density, restore
from glow.models.glow import Glow
from glow.networks.base import Network


@pytest.fixture(scope="module")
def gaussian():
    """A Glow of 1x4x4 images whose couplings and splits do nothing: x = A z + b. And its mean and covariance."""
    torch.manual_seed(0)
    config = glow.ModelConfig(image_shape=(1, 4, 4), num_levels=1, num_steps_per_level=2, hidden_channels=4)
    model = Glow(config).double()
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 1, 4, 4), dtype=torch.uint8, generator=rng)
    model.initialize(images, torch.rand(images.shape, dtype=torch.float64, generator=rng))
    networks = [part for part in model.modules() if isinstance(part, Network)]  # their outputs are 0 and stay so
    fixed = {id(parameter) for network in networks for parameter in network.parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in fixed:
                parameter += 0.1 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    model.eval()
    zero = [torch.zeros(1, *shape).double() for shape in model.latent_shapes]
    mean = model.decode(zero)[0].detach()

    def decode(z):
        return model.decode([z.view(1, 4, 2, 2)])[0].flatten()

    jacobian = torch.autograd.functional.jacobian(decode, torch.zeros(16).double())
    middle = torch.autograd.functional.jacobian(decode, torch.randn(16).double())
    torch.testing.assert_close(jacobian, middle)  # linear indeed
    return glow.TrainedGlow(model), mean.flatten(), jacobian @ jacobian.T


def test_log_density_is_that_of_the_gaussian(gaussian):
    model, mean, covariance = gaussian
    x = torch.randn(3, 1, 4, 4).double()
    expected = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x.flatten(1))
    torch.testing.assert_close(log_density(model, x), expected)


def check(density, mean, covariance, num_chains=64):
    """Compare draws, and the maximum, with a normal distribution."""
    start = mean + 3 * covariance.diagonal().sqrt() * torch.randn(num_chains, len(mean)).double()
    chains = hmc(density, start, np.random.default_rng(0), 120, num_leapfrogs=5)
    assert 0.6 < chains.acceptance < 0.97
    assert split_r_hat(chains.draws).max() < 1.05
    effective, deviation = effective_samples(chains.draws), covariance.diagonal().sqrt()
    assert effective.min() > 400
    draws = chains.draws.flatten(0, 1)
    assert ((draws.mean(0) - mean).abs() / (deviation / effective.sqrt())).max() < 4.5
    found = torch.cov(draws.T) / deviation / deviation[:, None]
    torch.testing.assert_close(found, covariance / deviation / deviation[:, None], atol=0.15, rtol=0)
    best = ascend(density, start, 400)
    assert ((best - mean).abs() / deviation).max() < 0.05


def test_missing_pixels_are_drawn_from_the_conditional_gaussian(gaussian):
    model, mean, covariance = gaussian
    torch.manual_seed(1)
    is_missing = torch.zeros(1, 4, 4, dtype=torch.bool)
    is_missing[0, :2, :3] = True
    missing = is_missing.flatten()
    point = torch.randn(1, 4, 4).double() * 0.3
    known = torch.linalg.solve(covariance[~missing][:, ~missing], covariance[~missing][:, missing]).T
    expected = mean[missing] + known @ (point.flatten() - mean)[~missing]
    spread = covariance[missing][:, missing] - known @ covariance[~missing][:, missing]
    check(given_known(model, point, is_missing), expected, spread)


def test_noise_is_removed_as_from_a_gaussian(gaussian):
    model, mean, covariance = gaussian
    torch.manual_seed(1)
    point, sigma = torch.randn(1, 4, 4).double() * 0.3, 0.2
    precision = torch.linalg.inv(covariance) + torch.eye(16).double() / sigma**2
    spread = torch.linalg.inv(precision)
    expected = spread @ (torch.linalg.solve(covariance, mean) + point.flatten() / sigma**2)
    check(given_noisy(model, point, sigma), expected, spread)


def test_details_are_drawn_as_from_a_gaussian_that_is_seen_at_half_its_size(gaussian):
    model, mean, covariance = gaussian
    torch.manual_seed(1)
    point, sigma = torch.randn(1, 4, 4).double() * 0.3, 0.2
    means = torch.zeros(4, 16).double()  # of 2x2 pixels
    for row, column in ((row, column) for row in range(4) for column in range(4)):
        means[2 * (row // 2) + column // 2, 4 * row + column] = 0.25
    spread = torch.linalg.inv(torch.linalg.inv(covariance) + means.T @ means / sigma**2)
    seen = means @ point.flatten()
    expected = spread @ (torch.linalg.solve(covariance, mean) + means.T @ seen / sigma**2)
    check(given_noisy(model, seen.view(1, 2, 2), sigma, observed="half_size"), expected, spread)


def test_colours_do_not_count_where_grey_is_seen():
    glow_model = tiny_glow(torch.float64)
    perturb(glow_model, 0.02)
    model, x = glow.TrainedGlow(glow_model), torch.randn(2, 3, 8, 8).double() * 0.2
    seen = torch.randn(1, 8, 8).double() * 0.2
    distance = (x.mean(1) - seen).square().sum((1, 2)) / (2 * 0.1**2)
    found = given_noisy(model, seen, 0.1, observed="grey")(x.flatten(1))
    torch.testing.assert_close(found, log_density(model, x) - distance)
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    turned = image[[1, 2, 0]]  # the same mean
    drawn = [restore(model, each, 0.1, num_steps=10, observed="grey").samples for each in (image, turned)]
    assert (drawn[0].int() - drawn[1].int()).abs().max() <= 1


def test_effective_samples_of_an_autoregressive_chain():
    rng, rho = np.random.default_rng(0), 0.8
    x = np.zeros((4000, 4, 1))
    for step in range(1, 4000):
        x[step] = rho * x[step - 1] + np.sqrt(1 - rho**2) * rng.standard_normal((4, 1))
    expected = 16000 * (1 - rho) / (1 + rho)
    assert float(effective_samples(torch.tensor(x))) == pytest.approx(expected, rel=0.15)
    assert float(split_r_hat(torch.tensor(x))) < 1.01
    x[:, 0] += 3
    assert float(split_r_hat(torch.tensor(x))) > 1.3
    assert float(effective_samples(torch.tensor(x))) < 50


@pytest.mark.parametrize("classes", [{}, {"class_conditional": True, "num_classes": 2}], ids=["plain", "classes"])
def test_known_pixels_stay_and_draws_are_repeatable(classes):
    glow_model = tiny_glow(torch.float32, **classes)
    perturb(glow_model, 0.02)
    model, label = glow.TrainedGlow(glow_model), 1 if classes else None
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    is_missing = torch.zeros(3, 8, 8, dtype=torch.bool)
    is_missing[:, :, 5:] = True
    found = inpaint(model, image, is_missing, label, seed=1, num_steps=10)
    for picture in (*found.samples, found.likeliest, found.mean):
        assert torch.equal(picture[~is_missing], image[~is_missing])
        assert not torch.equal(picture, image)
    assert torch.equal(found.samples, inpaint(model, image, is_missing, label, seed=1, num_steps=10).samples)
    with pytest.raises(ValueError, match="mask: no pixel is missing"):
        inpaint(model, image, torch.zeros_like(is_missing), label)
    assert restore(model, image, 0.1, label, num_steps=10).samples.shape == (4, 3, 8, 8)
    with pytest.raises(ValueError, match=r"sigma: 0\.001 is not allowed; give half a grey level, 0\.00195312, or more"):
        restore(model, image, 0.001, label)
