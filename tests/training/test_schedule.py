"""Schedules, optimisers and averaging of weights."""

import itertools

import pytest
import torch
from conftest import perturb, random_inputs, tiny_glow
from torch import nn

from glow.config import OptimizerConfig
from glow.training.ema import EMA
from glow.training.muon import Muon
from glow.training.optimizer import build_optimizer
from glow.training.schedule import learning_rate


def test_learning_rate_warms_up_and_falls_as_a_cosine():
    config = OptimizerConfig(lr=1.0, schedule="cosine", warmup_steps=10)
    rates = [learning_rate(step, 110, config) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0.0)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_linear_learning_rate_reaches_zero_at_the_last_step():
    config = OptimizerConfig(lr=1.0, schedule="linear", warmup_steps=2)
    assert [learning_rate(step, 6, config) for step in range(8)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_constant_learning_rate_stays():
    config = OptimizerConfig(lr=0.3, warmup_steps=2)
    assert [learning_rate(step, 9, config) for step in range(4)] == [0.15, 0.3, 0.3, 0.3]


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("adamax", torch.optim.Adamax),
        ("muon", Muon),
        ("sgd", torch.optim.SGD),
    ],
)
def test_every_optimizer_lowers_a_quadratic(name, cls):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([parameter], OptimizerConfig(name=name, lr=0.05, weight_decay=0.01))
    assert type(optimizer) is cls
    for _ in range(20):
        parameter.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert parameter.square().sum() < 1


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "muon", "sgd"])
def test_weight_decay_pulls_weights_without_gradient_to_zero(name):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([parameter], OptimizerConfig(name=name, lr=0.05, weight_decay=0.1))
    parameter.grad = torch.zeros(3)
    optimizer.step()
    assert (parameter < 1).all()


def test_average_follows_its_formula_and_gives_the_weights_back():
    model = nn.Linear(2, 1)
    start = model.weight.detach().clone()
    ema = EMA(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1)
    ema.update(model, ema.weight(1))
    decay = min(0.9, 2 / 11)
    assert torch.allclose(ema.average["weight"], start * decay + (start + 1) * (1 - decay))
    with ema.applied(model):
        assert torch.equal(model.weight, ema.average["weight"])
    assert torch.equal(model.weight, start + 1)


def test_cached_inverses_follow_a_swap_of_averaged_weights():
    model = tiny_glow(torch.float32)
    ema = EMA(model, 0.9)
    perturb(model, 0.05, seed=2)
    x, _ = model.dequantize(*random_inputs(model.config, 2, torch.float32))

    @torch.no_grad()
    def assert_round_trip():
        assert (model.decode(model.encode(x)[0]) - x).abs().max() < 1e-4

    assert_round_trip()
    with ema.applied(model):
        assert_round_trip()
    assert_round_trip()
