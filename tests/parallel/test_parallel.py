"""Layouts over processes: each makes the steps of a process alone, whatever the memory mode."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import fill_table, random_inputs, run_ranks, table_rows, tiny_config, tiny_glow
from torch.distributed.tensor import DTensor

from glow.bijectors.reuse import Reusing
from glow.config import OptimizerConfig, ParallelConfig, TrainConfig, TrainRun
from glow.models.glow import Glow
from glow.parallel import tensors
from glow.parallel.build import lay_out
from glow.parallel.placement import place
from glow.training.trainer import Trainer
from glow.training.validation import eval_mode

MEMORY = {
    "stored": ("stored", None),
    "checkpoint": ("checkpoint", None),
    "reversible": ("reversible", None),
    "anchors every step": ("reversible", 1),
}
PAGE = "docs/explanation/exactness.md"
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


def five_steps(parallel, memory_modes, dtype="float64", batch_size=BATCH_SIZE):
    """Losses, gradient norms, weights, validation and the whole model's likelihood after five steps, by memory mode."""
    results = {}
    for name, (memory, anchor_every) in memory_modes.items():
        accelerator = Accelerator(cpu=True)
        model_config = tiny_config(**PARTS)
        size = 2 if parallel.get("mode") == "pipeline" else 3
        run = TrainRun(
            "unused",
            model_config,
            optimizer=OptimizerConfig("sgd", lr=0.1, beta1=0.9, max_grad_norm=2.0),
            train=TrainConfig(batch_size=batch_size, microbatch_size=size, num_steps=5, ema_decay=0.9),
            parallel=ParallelConfig(**parallel),
            memory=memory,
        )
        placement = place(run, accelerator.process_index, accelerator.num_processes)
        torch.manual_seed(0)
        model = Glow(model_config).to(getattr(torch, dtype))
        model.set_memory(memory, anchor_every)

        def part(seed, count=batch_size, model_config=model_config, placement=placement):
            inputs = random_inputs(model_config, count, getattr(torch, dtype), seed)
            return Part(tuple(value[placement.replica :: placement.num_replicas] for value in inputs))

        model.initialize(*part(0).inputs)
        layout = lay_out(model, run, placement, accelerator)
        if parallel.get("mode") in ("fsdp", "hsdp"):  # what is gathered anew has no new version
            assert not any(module.may_reuse for module in layout.model.modules() if isinstance(module, Reusing))
        trainer = Trainer(layout, model.num_dims, run, accelerator)
        # One by one: replicas have not equally many.
        held_out = [Part(one) for one in zip(*(v.split(1) for v in part(10, 7).inputs), strict=True)]
        with eval_mode(layout.model):  # before training too: nothing of these weights may be kept
            trainer.validate(held_out)
        steps = [trainer.train_step(part(seed))[:2] for seed in range(5)]
        with trainer.ema.applied(layout.model), eval_mode(layout.model):
            score = trainer.validate(held_out)
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
    results = five_steps({}, {"stored": MEMORY["stored"]})
    AcceleratorState._reset_state(reset_partial_state=True)
    return results["stored"]


@pytest.fixture(scope="module")
def table():
    """Rows of the table in PAGE; GLOW_TABLE=docs/explanation/exactness.md puts them there."""
    rows = {}
    yield rows
    if rows.keys() == MODES.keys():
        fill_table("layouts", ["mode, processes", *MEMORY], [rows[mode] for mode in MODES])


def relative_difference(result, alone):
    """Largest relative difference of losses, gradient norms, validation, and of parameter tensors by their norm."""
    pairs = [(np.array(result[key]), np.array(alone[key])) for key in ("steps", "validation")]
    differences = [np.max(np.abs(ours - theirs) / np.abs(theirs)) for ours, theirs in pairs]
    if "weights" in result:
        assert result["weights"].keys() == alone["weights"].keys()
        for name, theirs in alone["weights"].items():
            ours = np.array(result["weights"][name])
            differences.append(np.linalg.norm(ours - theirs) / max(1, np.linalg.norm(theirs)))
        differences.append(np.max(np.abs(np.array(result["log_prob"]) / alone["log_prob"] - 1)))
    return max(differences)


@pytest.mark.parametrize("mode", MODES)
def test_every_layout_and_memory_mode_makes_the_steps_of_one_process_in_float64(alone, table, mode):
    world, parallel = MODES[mode]
    ranks = run_ranks(five_steps, world, parallel, MEMORY)
    assert all(result["num_processes"] == world for results in ranks for result in results.values())
    worst = {memory: max(relative_difference(results[memory], alone) for results in ranks) for memory in MEMORY}
    table[mode] = f"| {mode} | " + " | ".join(f"{worst[memory]:.0e}" for memory in MEMORY) + " |"
    assert max(worst.values()) < 1e-10


def test_the_page_on_exactness_has_a_row_for_every_layout():
    rows = table_rows("layouts", PAGE)
    assert [row.split("|")[1].strip() for row in rows] == list(MODES)
    assert all(float(cell) < 1e-10 for row in rows for cell in row.split("|")[2:-1])


def test_uneven_shares_are_completed_where_all_processes_take_part():
    # 5, 4 and 4 images make 3, 2 and 2 microbatches.
    alone = five_steps({}, {"stored": MEMORY["stored"]}, batch_size=13)["stored"]
    for results in run_ranks(five_steps, 3, {"mode": "fsdp"}, {"stored": MEMORY["stored"]}, "float64", 13):
        assert relative_difference(results["stored"], alone) < 1e-10


def parameters_after_laying_out(parallel):
    """All parameters as the main process gathers them, when every process came with others."""
    accelerator = Accelerator(cpu=True)
    run = TrainRun("unused", train=TrainConfig(batch_size=4, microbatch_size=1), parallel=ParallelConfig(**parallel))
    model = tiny_glow(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.001 * accelerator.process_index)
    placement = place(run, accelerator.process_index, accelerator.num_processes)
    layout = lay_out(model, run, placement, accelerator)
    return {name: value.flatten().tolist() for name, value in layout.gather(layout.model.state_dict()).items()}


@pytest.mark.parametrize("parallel", [{}, {"mode": "fsdp"}, {"mode": "pipeline", "stages": 2}], ids=str)
def test_all_processes_begin_with_the_parameters_of_the_main_one(parallel):
    gathered = run_ranks(parameters_after_laying_out, 2, parallel)[0]
    expected = {name: value.flatten().tolist() for name, value in tiny_glow(torch.float32).state_dict().items()}
    assert gathered == expected


def half_precision_reduction(parallel, reduce_dtype):
    """Losses of five float32 steps whose gradients are added up in ``reduce_dtype``."""
    results = five_steps({**parallel, "reduce_dtype": reduce_dtype}, {"stored": MEMORY["stored"]}, "float32")
    return results["stored"]["steps"]


@pytest.mark.parametrize("mode", ["ddp, 2", "fsdp, 2", "pipeline, 2 x 2"])
def test_gradients_are_added_up_in_half_precision_if_asked_for(mode):
    world, parallel = MODES[mode]
    exact = run_ranks(half_precision_reduction, world, parallel, "float32")[0]
    for dtype, bound in (("bfloat16", 1e-2), ("float16", 2e-3)):
        reduced = run_ranks(half_precision_reduction, world, parallel, dtype)[0]
        difference = np.max(np.abs(np.array(reduced)[:, 1] / np.array(exact)[:, 1] - 1))
        assert 1e-6 < difference < bound, dtype


def gathered(shards):
    """What process 0 gathers of a sharded model without a collective for each tensor, against the model itself."""
    calls = []
    gather = dist.gather
    tensors.dist.gather = lambda *args: (calls.append(1), gather(*args))
    DTensor.full_tensor = None
    accelerator = Accelerator(cpu=True)
    model = tiny_glow(**PARTS)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parallel = ParallelConfig("hsdp", shards=shards) if shards < 3 else ParallelConfig("fsdp")
    run = TrainRun("unused", tiny_config(**PARTS), parallel=parallel)
    layout = lay_out(model, run, place(run, accelerator.process_index, accelerator.num_processes), accelerator)
    whole = layout.gather(layout.model.state_dict())
    assert all(torch.equal(whole[name], expected[name]) for name in whole)
    return [len(whole), len(expected), len(calls)]


@pytest.mark.parametrize(("world", "shards"), [(3, 3), (4, 2)])
def test_sharded_tensors_are_gathered_many_at_once(world, shards):
    results = run_ranks(gathered, world, shards)
    count = results[0][1]
    assert count > 100
    expected = [[count, count, 1]] + [[0, count, 1]] * (shards - 1) + [[0, count, 0]] * (world - shards)
    assert results == expected
