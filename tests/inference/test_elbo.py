"""The evidence lower bound: its value, and what it trains."""

import pytest
import torch
from conftest import perturb

from glow.bijectors.base import Inverse
from glow.config import FlowConfig, TargetConfig, TrainRun
from glow.inference.elbo import Elbo
from glow.inference.energies import Energy
from glow.inference.logistic import LogisticRegression
from glow.inference.targets import FunctionTarget
from glow.models.flow import build_flow
from glow.training.tasks.target import TargetTask


@pytest.mark.parametrize("kind", ["affine", "mixture", "planar", "radial"])
def test_bound_is_target_minus_log_density_of_the_sample(kind):
    inverse = True if kind in ("planar", "radial", "mixture") else None
    flow = build_flow(FlowConfig(2, kind, 3, inverse=inverse)).double()
    perturb(flow, 0.3)
    elbo, noise = Elbo(flow, Energy("u3").double()), torch.randn(7, 2, dtype=torch.float64)
    beta = torch.linspace(0, 1, 7, dtype=torch.float64)
    x = flow.sample(noise)
    assert torch.allclose(elbo(noise, beta), beta * Energy("u3").double()(x) - flow.log_prob(x))


@pytest.mark.parametrize(("kind", "inverse"), [("planar", True), ("radial", True), ("mixture", True), ("affine", None)])
def test_layers_whose_inverse_is_no_closed_form_are_turned_around(kind, inverse):
    task = TargetTask(TrainRun("x", flow=FlowConfig(kind=kind), target=TargetConfig("u2")))
    assert task.run.flow == FlowConfig(2, kind, inverse=inverse)
    layers = task.build_model().flow.bijector.bijectors
    assert [isinstance(layer, Inverse) for layer in layers] == [bool(inverse)] * 4
    assert TargetTask(TrainRun("x", flow=FlowConfig(kind="planar", inverse=False), target=TargetConfig("u2")))


def test_target_is_not_trained():
    net = torch.nn.Linear(2, 1)
    elbo = Elbo(build_flow(FlowConfig(2)), FunctionTarget("net", lambda x: net(x)[:, 0], 2))
    module = Elbo(build_flow(FlowConfig(2)), FunctionTarget("net", torch.nn.Sequential(net, torch.nn.Flatten(0)), 2))
    own = {f"flow.{name}" for name in build_flow(FlowConfig(2)).state_dict()}
    for objective in (
        elbo,
        module,
        Elbo(build_flow(FlowConfig(2)), LogisticRegression(torch.ones(2, 1), torch.ones(2))),
    ):
        assert set(objective.state_dict()) == own
        assert {name for name, _ in objective.named_parameters()} <= own
