"""The trainer trains any model that gives log-probabilities, and stops where numbers are not finite."""

import itertools
import math

import pytest
import torch
from accelerate import Accelerator
from conftest import random_inputs, tiny_glow
from torch import nn

from glow.config import OptimizerConfig, TrainConfig, TrainRun
from glow.parallel.layout import Replicated
from glow.parallel.placement import Placement
from glow.training.diagnosis import TrainingDiverged
from glow.training.metrics import read_metrics
from glow.training.trainer import Trainer


class TwoGaussians(nn.Module):
    """A density of vectors: nothing in the trainer knows of images."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return (-0.5 * (x - self.mean).square() - 0.5 * math.log(2 * math.pi)).sum(1)


class VectorBatch:
    skipped = ()

    def __init__(self, x):
        self.inputs = (x,)

    def __len__(self):
        return len(self.inputs[0])


def test_trainer_trains_vectors(tmp_path):
    run = TrainRun(
        str(tmp_path), optimizer=OptimizerConfig(name="adam", lr=0.1), train=TrainConfig(num_steps=60, batch_size=32)
    )
    rng = torch.Generator().manual_seed(0)
    batches = (VectorBatch(torch.randn(32, 3, generator=rng) + 2) for _ in itertools.count())
    accelerator = Accelerator(cpu=True)
    trainer = Trainer(Replicated(TwoGaussians(), Placement(0, 1), accelerator), 3, run, accelerator)
    held_out = VectorBatch(torch.full((5, 3), 2.0))
    trainer.fit(batches, lambda: [held_out], lambda model: {"mean": model.mean.mean().item()})
    assert (trainer.model.mean - 2).abs().max() < 0.3
    assert read_metrics(tmp_path)[-1]["validation/bits_per_dim"] == pytest.approx(0.5 * math.log2(2 * math.pi), abs=0.1)


def diverging(tmp_path, spoil):
    model = tiny_glow(torch.float32)
    run = TrainRun(str(tmp_path), train=TrainConfig(batch_size=4))
    accelerator = Accelerator(cpu=True)
    trainer = Trainer(Replicated(model, Placement(0, 1), accelerator), model.num_dims, run, accelerator)
    batch = VectorBatch(None)
    batch.inputs = random_inputs(model.config, 4, torch.float32)
    batch.__class__.__len__ = lambda self: len(self.inputs[0])
    spoil(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TrainingDiverged) as error:
        trainer.train_step(batch)
    after = model.state_dict()
    assert all(torch.equal(before[n].nan_to_num(9), after[n].nan_to_num(9)) for n in before)
    return str(error.value)


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("bijectors.2.net.conv2.weight", "bijector.bijectors.2.net"),
        ("bijectors.1.log_s", "bijector"),  # mixing and ActNorm are one map in the step
        ("bijectors.0.bias", "bijector"),
    ],
)
def test_non_finite_loss_names_step_layer_and_checkpoint_and_updates_nothing(tmp_path, parameter, layer):
    def spoil(model):
        with torch.no_grad():
            model.get_parameter(f"chain.2.bijector.{parameter}").view(-1)[0] = math.inf

    message = diverging(tmp_path, spoil)
    assert message.startswith("step 1: loss nan")
    assert f"first seen in chain.2.{layer};" in message
    assert "Last good checkpoint: none yet" in message


def test_non_finite_gradient_of_a_finite_loss_stops_too(tmp_path):
    def spoil(model):
        model.chain[2].bijector.bijectors[0].log_scale.register_hook(lambda gradient: gradient * math.nan)

    message = diverging(tmp_path, spoil)
    assert "gradient norm nan, first seen in chain.2.bijector.bijectors.0.log_scale" in message
