"""A checkpoint's model is built within the memory of its weights, and without the slow parts of torch."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from variants import VARIANTS

from glow.config import FlowConfig, ModelConfig
from glow.models.flow import build_flow
from glow.models.glow import Glow
from glow.training.checkpoints.building import LimitedNumbers
from glow.training.checkpoints.models import SLACK


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(10, 11),
        lambda: torch.randn((10, 11)),
        lambda: torch.empty(size=(10, 11)),
        lambda: torch.eye(11),
        lambda: torch.randperm(110),
        lambda: torch.arange(110, -1, -1),
        lambda: torch.full((10, 11), 1.0),
        lambda: [torch.ones(60), torch.ones(60)],
        lambda: nn.Conv2d(2, 50, 1),
        lambda: torch.zeros(10**9, 10**9),
    ],
)
def test_more_numbers_than_allowed_are_refused(make):
    with pytest.raises(MemoryError), LimitedNumbers(100):
        make()


def test_fewer_numbers_are_made():
    with LimitedNumbers(100):
        assert torch.eye(5).sum() + torch.arange(9, -1, -1).sum() + torch.zeros(()) == 50
        nn.Linear(4, 8)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_building_takes_few_more_numbers_than_a_model_has(changes):
    shape = {"image_shape": (3, 16, 16), "num_levels": 2, "num_steps_per_level": 2, "hidden_channels": 64}
    config = ModelConfig(**(shape | changes))
    limit = SLACK * sum(tensor.numel() for tensor in Glow(config).state_dict().values())
    with LimitedNumbers(limit):
        Glow(config)


def test_building_a_flow_of_vectors_takes_few_more_numbers_than_it_has():
    config = FlowConfig(num_dims=20, linear=True, normalization="actnorm", base="learned")
    limit = SLACK * sum(tensor.numel() for tensor in build_flow(config).state_dict().values())
    with LimitedNumbers(limit):
        build_flow(config)


def test_loading_a_model_imports_neither_the_compiler_nor_its_algebra():
    """They take two seconds; glow.load("digits") takes half a second of one core after torch is imported."""
    slow = "{'torch._dynamo', 'sympy'}"
    program = f"import sys, torch, glow; glow.load('digits').sample(1); assert not {slow} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
