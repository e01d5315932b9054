"""Layouts over processes: each makes the steps of a process alone, whatever the memory mode."""

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import random_inputs, run_ranks, tiny_config

from glow.config import OptimizerConfig, ParallelConfig, TrainConfig, TrainRun
from glow.model import Glow
from glow.parallel.build import lay_out
from glow.parallel.placement import place
from glow.training.trainer import Trainer

MEMORY = {"stored": ("stored", None), "checkpoint": ("checkpoint", None), "reversible": ("reversible", None)}
MODES = {
    "ddp, 2": (2, {}),
    "ddp, 4": (4, {}),
    "fsdp, 2": (2, {"mode": "fsdp"}),
    "fsdp, 4": (4, {"mode": "fsdp"}),
    "hsdp, 4": (4, {"mode": "hsdp", "shards": 2}),
    "pipeline, 2": (2, {"mode": "pipeline", "stages": 2}),
    "pipeline, 4": (4, {"mode": "pipeline", "stages": 4}),
    "pipeline, 2 x 2": (4, {"mode": "pipeline", "stages": 2}),
}
PARTS = {"class_conditional": True, "num_classes": 3, "dequantization": "variational", "dequantization_steps": 1}
BATCH_SIZE = 16


@dataclasses.dataclass
class Part:
    """This process's part of a batch."""

    inputs: tuple
    skipped: tuple = ()

    def __len__(self):
        return len(self.inputs[0])


def five_steps(parallel, memory_modes, dtype="float64", **changes):
    """Losses, gradient norms, weights, validation and the whole model's likelihood after five steps, by memory mode."""
    results = {}
    for name, (memory, anchor_every) in memory_modes.items():
        accelerator = Accelerator(cpu=True)
        model_config = tiny_config(**PARTS | changes)
        size = 2 if parallel.get("mode") == "pipeline" else 3
        run = TrainRun(
            "unused",
            model_config,
            optimizer=OptimizerConfig("sgd", lr=0.1, beta1=0.9, max_grad_norm=2.0),
            train=TrainConfig(batch_size=BATCH_SIZE, microbatch_size=size, num_steps=5, ema_decay=0.9),
            parallel=ParallelConfig(**parallel),
            memory=memory,
        )
        placement = place(run, accelerator.process_index, accelerator.num_processes)
        torch.manual_seed(0)
        model = Glow(model_config).to(getattr(torch, dtype))
        model.set_memory(memory, anchor_every)

        def part(seed, count=BATCH_SIZE, model_config=model_config, placement=placement):
            inputs = random_inputs(model_config, count, getattr(torch, dtype), seed)
            return Part(tuple(value[placement.replica :: placement.num_replicas] for value in inputs))

        model.initialize(*part(0).inputs)
        layout = lay_out(model, run, placement, accelerator)
        trainer = Trainer(layout, model.num_dims, run, accelerator)
        steps = [trainer._train_step(part(seed))[:2] for seed in range(5)]
        with trainer.ema.applied(layout.model):
            score = trainer._validate([part(10, 7), part(11, 5)])
            whole = layout.whole_model()
            with torch.no_grad():
                log_prob = whole(*random_inputs(model_config, 4, getattr(torch, dtype), 20)).tolist() if whole else None
        results[name] = {"steps": steps, "validation": score, "log_prob": log_prob}
        results[name]["num_processes"] = accelerator.num_processes
        if accelerator.is_main_process:
            weights = layout.gather(trainer.ema.state_dict(layout.model))
            results[name] |= {"weights": {key: value.double().flatten().tolist() for key, value in weights.items()}}
        else:
            layout.gather(trainer.ema.state_dict(layout.model))
    return results


@pytest.fixture(scope="module")
def alone():
    from accelerate.state import AcceleratorState

    results = five_steps({}, {"stored": MEMORY["stored"]})
    AcceleratorState._reset_state(reset_partial_state=True)
    return results["stored"]


@pytest.mark.parametrize("mode", MODES)
def test_every_layout_and_memory_mode_makes_the_steps_of_one_process_in_float64(alone, mode):
    world, parallel = MODES[mode]
    ranks = run_ranks(five_steps, world, parallel, MEMORY)
    for rank, results in enumerate(ranks):
        for memory, result in results.items():
            assert result["num_processes"] == world
            assert np.allclose(result["steps"], alone["steps"], rtol=1e-10), memory
            assert result["validation"] == pytest.approx(alone["validation"], rel=1e-10)
            if rank == 0:
                assert np.allclose(result["log_prob"], alone["log_prob"], rtol=1e-10)
                assert result["weights"].keys() == alone["weights"].keys()
                for name, value in alone["weights"].items():
                    assert np.allclose(result["weights"][name], value, rtol=0, atol=1e-10), (memory, name)
