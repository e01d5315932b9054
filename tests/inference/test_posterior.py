"""How well a flow fits a target: estimates against closed forms, grids, and fits that take seconds."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from own_targets import correlated, of_matrices

from glow.config import FlowConfig
from glow.data.vectors.noise import Noise
from glow.evaluation.vectors import picture
from glow.inference.elbo import Elbo
from glow.inference.energies import Energy
from glow.inference.logistic import LogisticRegression, breast_cancer
from glow.inference.pictures import plot_posterior
from glow.inference.posterior import Draws, Grid, describe, draw, grid_of, noise_batches
from glow.inference.targets import FunctionTarget
from glow.models.flow import build_flow

REFERENCE = json.loads(Path("tests/reference/logistic.json").read_text())


def test_fit_of_a_gaussian_to_itself_is_exact():
    target = FunctionTarget("gaussian", correlated, 2)
    flow = build_flow(FlowConfig(2, linear=True, base="learned", num_layers=1))
    with torch.no_grad():  # W x standard normal + mean has the covariance of the target
        factor = torch.linalg.cholesky(torch.tensor([[1.0, 0.3], [0.3, 0.25]]))
        linear = flow.bijector.bijectors[0]
        linear.permutation.copy_(torch.eye(2))
        inverse = factor.inverse()
        linear.lower.copy_(torch.tensor([[0.0, 0.0], [inverse[1, 0] / inverse[0, 0], 0.0]]))
        linear.upper.zero_()
        linear.sign.fill_(1.0)
        linear.log_s.copy_(inverse.diagonal().log())
        flow.base.mean.copy_(inverse @ torch.tensor([1.0, -2.0]))
    draws = draw(flow, target, noise_batches(2, 20_000, 0))
    described = describe(draws, target)
    assert described["elbo"]["nats"] == pytest.approx(3, abs=1e-5)
    assert described["importance"]["log_normalizer"]["nats"] == pytest.approx(3, abs=1e-5)
    assert described["importance"]["effective_sample_fraction"] == pytest.approx(1, abs=1e-6)
    assert described["quadrature"]["log_normalizer_nats"] == pytest.approx(3, abs=1e-5)
    assert described["kl"]["nats"] == pytest.approx(0, abs=1e-5)
    means, stds = ([dimension[key] for dimension in described["dimensions"]] for key in ("mean", "std"))
    assert means == pytest.approx([1, -2], abs=0.03)
    assert stds == pytest.approx([1, 0.5], rel=0.03)
    assert described["correlation"][0][1] == pytest.approx(0.6, abs=0.03)


def test_estimates_of_a_gaussian_that_is_too_wide_are_their_closed_forms():
    # q = N(0, 1), target = 5 N(0, s^2): E[log p - log q], and E[w]^2 / E[w^2].
    s, x = 0.8, np.random.default_rng(0).normal(size=(200_000, 1))
    log_flow = -0.5 * np.square(x[:, 0]) - 0.5 * math.log(2 * math.pi)
    log_target = math.log(5) - 0.5 * np.square(x[:, 0] / s) - math.log(s) - 0.5 * math.log(2 * math.pi)
    draws = Draws(x, log_flow, log_target)
    kl = 0.5 * (1 / s**2 - 1) + math.log(s)
    assert abs(draws.elbo.nats - (math.log(5) - kl)) < 4 * draws.elbo.standard_error < 0.02
    assert abs(draws.log_normalizer.nats - math.log(5)) < 4 * draws.log_normalizer.standard_error < 0.02
    assert draws.effective_fraction == pytest.approx(s * math.sqrt(2 - s**2), rel=0.01)


def test_grid_integrates_and_finds_where_the_mass_lies():
    target = FunctionTarget("gaussian", correlated, 2)
    grid = grid_of(target, Draws(np.array([[-1.0, -3.0], [3.0, -1.0]]), None, None), 400)
    assert np.array_equal(grid.low, [-5, -5])
    assert np.array_equal(grid.high, [7, 1])
    assert grid.log_normalizer == pytest.approx(3, abs=1e-4)
    assert grid.edge < 1e-3
    low, high = grid.extent()
    assert np.abs(low - (np.array([1, -2]) - 3.29 * np.array([1, 0.5]))).max() < 0.1
    assert np.abs(high - (np.array([1, -2]) + 3.29 * np.array([1, 0.5]))).max() < 0.1
    flat = Grid(np.zeros(2), np.ones(2), np.zeros((10, 10)))
    assert flat.edge == pytest.approx(0.36)
    assert flat.log_normalizer == pytest.approx(0)


@pytest.mark.parametrize("num_dims", [1, 2, 40])
def test_posterior_of_any_dimension_is_drawn(num_dims):
    flow = build_flow(FlowConfig(num_dims, "radial", 1, inverse=True))
    target = FunctionTarget("gaussian", lambda x: -x.square().sum(1), num_dims)
    image = picture(plot_posterior(draw(flow, target, noise_batches(num_dims, 500, 0)), flow, target))
    assert image.std() > 10


def fit(flow, target, steps, lr, batch=256, anneal_steps=0):
    elbo, batches = Elbo(flow, target), Noise(target.num_dims, anneal_steps).train_batches(batch, 0)
    optimizer = torch.optim.Adam(flow.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-elbo(*next(batches).inputs).mean()).backward()
        optimizer.step()
        schedule.step()
    return describe(draw(flow, target, noise_batches(target.num_dims, 20_000, 0)), target)


def test_posterior_of_the_logistic_regression_is_that_of_nuts_in_seconds():
    features, labels, _ = breast_cancer()
    target = LogisticRegression(torch.from_numpy(features), torch.from_numpy(labels))
    torch.manual_seed(0)
    flow = build_flow(FlowConfig(31, num_layers=2, hidden_channels=32, linear=True, base="learned"))
    described = fit(flow, target, 300, 0.01, batch=128)
    means, stds = (np.array([line[key] for line in described["dimensions"]]) for key in ("mean", "std"))
    assert REFERENCE["max_r_hat"] < 1.001
    assert np.abs(means - REFERENCE["mean"]).max() < 0.15
    assert np.abs(stds / REFERENCE["std"] - 1).max() < 0.2


@pytest.mark.parametrize(("name", "bound"), [("u1", 0.2), ("u2", 0.2), ("u3", 0.2), ("u4", 0.45)])
def test_couplings_fit_the_energies_in_seconds(name, bound):
    torch.manual_seed(0)
    flow = build_flow(FlowConfig(2, num_layers=6, hidden_channels=32))
    assert fit(flow, Energy(name), 400, 0.01, 128, anneal_steps=100)["kl"]["nats"] < bound


def test_function_gets_float32_in_the_report_too():
    target = FunctionTarget("of_matrices", of_matrices, 2)
    flow = build_flow(FlowConfig(2))
    described = describe(draw(flow, target, noise_batches(2, 1000, 0)), target)
    assert described["quadrature"]["log_normalizer_nats"] == pytest.approx(math.log(math.pi), abs=1e-4)


def test_no_divergence_is_told_where_the_grid_is_too_coarse():
    target = FunctionTarget("narrow", lambda x: -(x / torch.tensor([1.0, 1e-4])).square().sum(1), 2)
    described = describe(draw(build_flow(FlowConfig(2)), target, noise_batches(2, 1000, 0)), target)
    assert "kl" not in described
    assert "quadrature" in described
