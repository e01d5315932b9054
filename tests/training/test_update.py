"""A recorded update is the plain one, up to rounding."""

import pytest
import torch
from torch import nn

from glow.config import OptimizerConfig, TrainConfig, TrainRun
from glow.training import update
from glow.training.ema import EMA
from glow.training.optimizer import build_optimizer
from glow.training.update import Update


class Direct:
    """In place of a CUDA graph: calls the function."""

    def __init__(self, function, num_warm_ups):
        assert num_warm_ups == 0  # each call moves the weights
        self.function, self.num_calls = function, 0

    def __call__(self, *inputs):
        self.num_calls += 1
        self.function(*inputs)


def trained(name, is_recorded, monkeypatch):
    monkeypatch.setattr(update, "CudaGraphs", Direct)
    monkeypatch.setattr(update, "records_steps", lambda run, device: is_recorded)
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    run = TrainRun(output="x", optimizer=OptimizerConfig(name=name), train=TrainConfig(ema_decay=0.9))
    optimizer = build_optimizer(model.parameters(), run.optimizer)
    ema = EMA(model, 0.9)
    move = Update(model, optimizer, ema, run)
    gradients = [torch.empty_like(parameter) for parameter in model.parameters()]
    for number in range(1, 5):
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient.normal_()
        optimizer.param_groups[0]["lr"] = 0.01 * number
        move(gradients, 0.5 / number, 0.01 * number, number)
    return model, ema, move


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_recorded_updates_are_those_of_the_host(name, monkeypatch):
    (plain, plain_ema, first), (other, other_ema, second) = (trained(name, flag, monkeypatch) for flag in (False, True))
    assert (first._graphs.num_calls, second._graphs.num_calls) == (0, 3)  # the first one creates the state
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value)
        torch.testing.assert_close(other_ema.average[key], plain_ema.average[key])


def test_gradients_at_another_place_are_not_lost(monkeypatch):
    model, _, move = trained("adam", True, monkeypatch)
    before = model.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    move([parameter.grad for parameter in model.parameters()], 1.0, 0.1, 5)
    assert move._graphs.num_calls == 3
    assert not torch.equal(model.weight, before)


def test_sgd_is_not_recorded(monkeypatch):
    _, _, move = trained("sgd", True, monkeypatch)
    assert move._graphs.num_calls == 0
