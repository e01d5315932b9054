"""Muon: orthogonal steps for convolutions, Adam for the rest."""

import math

import pytest
import torch
from test_resuming import Interrupted, train_with_fault
from torch import nn
from training_runs import assert_same_checkpoint, options

from glow.config import OptimizerConfig, ParallelConfig, TrainRun
from glow.training.checkpoints.reading import read_tensors
from glow.training.muon import MOMENTUM, STEP, is_matrix, orthogonalized
from glow.training.optimizer import build_optimizer, load_optimizer_tensors
from pipelines import train as train_stage

SHAPES = [(64, 6, 3, 3), (64, 64, 1, 1), (12, 64, 3, 3), (64, 6, 3, 3)]
OTHERS = [(12, 6, 3, 3), (64,), (96, 96), (3, 70)]


def parameters(seed=0):
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(shape)) for shape in (*SHAPES, *OTHERS)]


def test_only_convolutions_with_many_channels_are_matrices():
    assert [is_matrix(parameter) for parameter in parameters()] == [True] * 4 + [False] * 4


@pytest.mark.parametrize("shape", [(3, 64, 54), (1, 12, 576), (2, 64, 64), (1, 130, 7)])
def test_matrices_become_nearly_orthogonal_with_the_same_singular_vectors(shape):
    u, values, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    matrices = u @ torch.diag_embed(torch.linspace(0.2, 1, values.shape[1]).double().expand_as(values)) @ v
    found = orthogonalized(matrices.float()).double()
    in_basis = u.mT @ found @ v.mT
    values = in_basis.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.6
    assert values.max() < 1.25
    assert (in_basis - torch.diag_embed(values)).abs().max() < 1e-4


def test_a_matrix_of_zeros_stays():
    assert torch.equal(orthogonalized(torch.zeros(2, 64, 64)), torch.zeros(2, 64, 64))


def test_steps_follow_their_formulas():
    mine, theirs = parameters(), parameters()
    weights = [parameter.detach().double() for parameter in mine[:4]]
    momenta = [torch.zeros_like(weight) for weight in weights]
    optimizer = build_optimizer(mine, OptimizerConfig(name="muon", lr=0.01, weight_decay=0.1))
    adamw = torch.optim.AdamW(theirs[4:], 0.01, (0.9, 0.999), weight_decay=0.1, fused=True)
    for seed in range(3):
        gradients = [parameter.detach() for parameter in parameters(seed + 1)]
        for parameter, other, gradient in zip(mine, theirs, gradients, strict=True):
            parameter.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        adamw.step()
        for number, gradient in enumerate(gradients[:4]):
            momenta[number] = MOMENTUM * momenta[number] + (1 - MOMENTUM) * gradient.double()
            nesterov = MOMENTUM * momenta[number] + (1 - MOMENTUM) * gradient.double()
            matrix = nesterov.flatten(1)
            move = orthogonalized(matrix[None].float())[0].double() * STEP * math.sqrt(max(matrix.shape)) * 0.01
            weights[number] = (1 - 0.01 * 0.1) * weights[number] - move.view_as(nesterov)
    for parameter, weight in zip(mine, weights, strict=False):
        assert torch.allclose(parameter.detach().double(), weight, atol=1e-5, rtol=0)
    for parameter, other in zip(mine[4:], theirs[4:], strict=True):
        assert torch.equal(parameter, other)


def test_loaded_numbers_of_steps_lie_where_the_parameters_are():
    """As torch's fused AdamW wants it; the meta device stands for a GPU."""
    model = nn.Linear(3, 2, device="meta")
    optimizer = build_optimizer(model.parameters(), OptimizerConfig(name="muon"))
    state = {"step": torch.ones(()), "exp_avg": torch.zeros(2, 3), "exp_avg_sq": torch.zeros(2, 3)}
    load_optimizer_tensors(optimizer, model, {f"weight/{name}": tensor for name, tensor in state.items()})
    assert {value.device.type for value in optimizer.state[model.weight].values()} == {"meta"}


def test_a_resumed_run_is_the_same_bit_by_bit(dataset, tmp_path):
    extra = ("--optimizer.name", "muon", "--model.hidden_channels", "64")
    through, resumed = tmp_path / "through", tmp_path / "resumed"
    train_stage.main(options(dataset, through, *extra))
    with pytest.raises(Interrupted):
        train_with_fault(options(dataset, resumed, *extra), at_step=7)
    train_stage.main(options(dataset, resumed, *extra))
    checkpoint = through / "checkpoints/step-00000008"
    assert_same_checkpoint(checkpoint, resumed / "checkpoints/step-00000008")
    entries = {key.rsplit("/", 1)[1] for key in read_tensors(checkpoint, "optimizer")}
    assert entries == {"momentum", "step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("parallel", [ParallelConfig("fsdp"), ParallelConfig("hsdp", shards=2)])
def test_shards_of_parameters_are_refused(parallel):
    with pytest.raises(
        ValueError, match=rf"parallel\.mode: '{parallel.mode}' is not allowed; with optimizer\.name muon"
    ):
        TrainRun("x", optimizer=OptimizerConfig("muon"), parallel=parallel)
