"""How well a flow of vectors fits a density."""

import math

import numpy as np
import torch

from glow.config import FlowConfig, VectorDataConfig
from glow.data.vectors.densities import Mixture
from glow.data.vectors.points import VectorData
from glow.evaluation.vectors import Estimate, kl_divergence, log_prob
from glow.models.flow import DiagonalGaussian, Flow, build_flow
from glow.randomness import generator


def test_flow_learns_a_mixture_in_seconds():
    data = VectorData(VectorDataConfig("mixture", fresh=True))
    torch.manual_seed(0)
    flow = build_flow(FlowConfig(2, "mixture", 2, normalization="actnorm", linear=True))
    batches = data.train_batches(256, 0)
    flow.initialize(next(batches).x)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
    before = kl_divergence(flow, data.density, data.held_out).nats
    for _ in range(150):
        optimizer.zero_grad()
        (-flow(next(batches).x).mean()).backward()
        optimizer.step()
    assert kl_divergence(flow, data.density, data.held_out).nats < min(0.25, before / 3)


def test_divergence_of_two_gaussians_is_its_closed_form():
    flow = Flow(DiagonalGaussian(2, is_learned=True), [])
    with torch.no_grad():
        flow.base.mean.copy_(torch.tensor([1.0, 0.0]))
        flow.base.log_scale.fill_(math.log(2))
    standard = Mixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    estimate = kl_divergence(flow, standard, standard.sample(generator(0, "test"), 50_000))
    # sum over dimensions of log s + (1 + m^2) / (2 s^2) - 1/2
    expected = 2 * math.log(2) + (1 + 1) / 8 + 1 / 8 - 1
    assert estimate.standard_error < 0.01
    assert abs(estimate.nats - expected) < 4 * estimate.standard_error


def test_log_prob_is_that_of_eval_mode_and_leaves_the_flow_alone():
    flow = build_flow(FlowConfig(2, normalization="batchnorm"))
    state = {name: value.clone() for name, value in flow.state_dict().items()}
    points = np.random.default_rng(0).normal(size=(20, 2))
    assert np.allclose(log_prob(flow, points)[:5], log_prob(flow, points[:5]))
    assert flow.training
    assert all(torch.equal(state[name], value) for name, value in flow.state_dict().items())


def test_estimate_tells_mean_and_standard_error():
    assert str(Estimate.of(np.array([1.0, 2.0, 3.0]))) == "2.0000 ± 0.5774 nats"
