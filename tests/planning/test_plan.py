"""Planning: the memory that is predicted is what is measured, and the mode that is recommended fits."""

import dataclasses
import gc

import pytest
import torch

from glow.config import ModelConfig, ParallelConfig, TrainConfig, TrainRun
from glow.cost.units import unit_costs
from glow.models.glow import Glow
from glow.planning import measuring
from glow.planning.measuring import allocations, measure_kept, measure_step, random_inputs
from glow.planning.memory import in_mode, process_memory
from glow.planning.options import RESERVE, options, recommend
from pipelines import plan

GIB = 2**30
CPU = torch.device("cpu")
MODEL = ModelConfig(image_shape=(3, 32, 32), num_levels=2, num_steps_per_level=6, hidden_channels=48)
RUN = TrainRun("x", model=MODEL, train=TrainConfig(batch_size=16))


@pytest.mark.parametrize("memory", ["stored", "checkpoint", "reversible"])
def test_prediction_is_within_15_percent_of_what_is_measured(memory):
    run = in_mode(RUN, memory)
    (predicted,) = process_memory(run, 1, images=16, device_type="cpu")
    assert predicted.kept_bytes + predicted.working_bytes > 0.5 * predicted.step_bytes
    assert predicted.step_bytes == pytest.approx(measure_step(run, 16, CPU), rel=0.15)
    batch_bytes = 16 * 5 * 3 * 32 * 32
    assert predicted.kept_bytes - batch_bytes == pytest.approx(measure_kept(run, 16, CPU), rel=0.02)


@pytest.mark.parametrize("whitens", [False, True])
def test_start_takes_what_is_predicted_and_little_with_microbatches(whitens):
    with allocations(CPU) as counted:
        model = Glow(MODEL)
        model.initialize(*random_inputs(MODEL, 16), microbatch_size=2, whitens=whitens)
    small = TrainConfig(batch_size=2, whitening_images=16)
    run = dataclasses.replace(RUN, train=small) if whitens else RUN
    parts = process_memory(run, 1, 2, "cpu")[0].start_bytes
    whole = process_memory(RUN, 1, 16, "cpu")[0].start_bytes
    assert parts == pytest.approx(counted.peak_bytes, rel=0.15)
    assert parts < 0.3 * whole


def test_the_whole_model_at_the_start_counts():
    model = ModelConfig(image_shape=(3, 8, 8), num_levels=2, num_steps_per_level=8, hidden_channels=512)
    run = dataclasses.replace(RUN, model=model)
    (sharded,) = process_memory(in_mode(run, "reversible", ParallelConfig(mode="fsdp")), 64, 1)
    (alone,) = process_memory(in_mode(run, "reversible"), 1, 1)
    assert sharded.total_bytes == sharded.start_bytes > max(sharded.step_bytes, alone.weight_bytes)


def test_images_that_wait_for_their_microbatch_count():
    few, all_images = (process_memory(RUN, 1, images)[0] for images in (4, 16))
    assert few.waiting_bytes == 12 * 5 * 3 * 32 * 32
    assert all_images.waiting_bytes == 0


def test_garbage_of_an_earlier_measurement_is_not_counted():
    def leave_garbage():
        with allocations(CPU):
            tensors = [torch.zeros(1000)]
            tensors.append(tensors)

    leave_garbage()
    with allocations(CPU) as counted:
        gc.collect()
        kept = torch.zeros(10)
    assert counted.live_bytes == kept.nbytes


def test_sharding_divides_what_belongs_to_parameters():
    def memory(mode, num_processes, **changes):
        return process_memory(in_mode(RUN, "stored", ParallelConfig(mode=mode, **changes)), num_processes, 4)[0]

    alone, ddp, fsdp = memory("ddp", 1), memory("ddp", 8), memory("fsdp", 8)
    assert (
        ddp.step_bytes - ddp.waiting_bytes == alone.step_bytes - alone.waiting_bytes + alone.gradient_bytes
    )  # the copy that is exchanged
    assert (fsdp.gradient_bytes, fsdp.optimizer_bytes, fsdp.ema_bytes) == tuple(
        value // 8 for value in (alone.gradient_bytes, alone.optimizer_bytes, alone.ema_bytes)
    )
    assert memory("hsdp", 8, shards=4).ema_bytes == alone.ema_bytes // 4
    stages = process_memory(in_mode(RUN, "stored", ParallelConfig(mode="pipeline", stages=4)), 8, 4)
    assert sum(stage.ema_bytes for stage in stages) == alone.ema_bytes
    assert [stage.units.start for stage in stages] == [0, *(stage.units.stop for stage in stages[:-1])]
    # Stage s keeps S - s microbatches.
    for number, stage in enumerate(stages):
        own = unit_costs(MODEL)[stage.units.start : stage.units.stop]
        assert stage.kept_bytes == (4 - number) * sum(4 * cost.kept_bytes + cost.kept_weight_bytes for cost in own)


def advise(run, num_processes, capacity_bytes):
    best = recommend(run, options(run, num_processes, capacity_bytes, images=1))
    return best and (best.parallel.mode, best.memory, best.microbatch_size)


def test_the_fastest_way_that_fits_is_recommended():
    run = dataclasses.replace(RUN, train=TrainConfig(batch_size=34, microbatch_size=16))
    assert advise(run, 1, GIB * 80) == ("ddp", "stored", 34)
    assert advise(run, 8, GIB * 80) == ("ddp", "stored", 5)
    for memory in ("stored", "checkpoint", "reversible"):
        # 16 images fit, 17 do not: three parts of 12, 12 and 10.
        capacity = process_memory(in_mode(run, memory), 1, 16)[0].total_bytes / (1 - RESERVE)
        assert advise(run, 1, capacity + 1) == ("ddp", memory, 12)
    # Where no way has room for as many, the one with room for most.
    assert advise(run, 1, capacity - 1e6)[:2] == ("ddp", "reversible")
    assert advise(run, 1, 2**20) is None


def test_parameters_too_large_for_one_device_are_sharded():
    model = ModelConfig(image_shape=(3, 8, 8), num_levels=2, num_steps_per_level=8, hidden_channels=256)
    run = dataclasses.replace(RUN, model=model, train=TrainConfig(batch_size=64))
    replicated = process_memory(in_mode(run, "reversible"), 8, 1)[0].total_bytes
    assert advise(run, 8, replicated)[0] == "fsdp"
    assert advise(run, 8, 2 * replicated)[0] == "ddp"


def test_plan_prints_ways_stages_measurement_and_advice(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PLOTTED_STEPS", (1, 2))
    arguments = ["--model.image_shape", "[1, 8, 8]", "--model.num_levels", "1", "--model.num_steps_per_level", "4"]
    arguments += ["--model.hidden_channels", "8", "--train.batch_size", "8", "--num_processes", "4"]
    best = plan.main([*arguments, "--gpu_memory_gib", "1", "--measure", "true", "--plot", str(tmp_path / "kept.png")])
    assert (best.parallel.mode, best.memory, best.microbatch_size) == ("ddp", "stored", 2)
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines() if line.startswith("  ")]
    modes = [["ddp"], ["fsdp"], ["pipeline", "4"]]
    expected = [[*mode, memory] for mode in modes for memory in ("stored", "checkpoint", "reversible")]
    assert [row[: len(want)] for row, want in zip(rows[1:], expected, strict=False)] == expected
    assert "recommended: --memory stored --parallel.mode ddp --train.microbatch_size 2" in text
    assert "predicted / measured" in text
    assert text.splitlines()[-1] == str(tmp_path / "kept.png")
    assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu_memory_gib", "0"], "gpu_memory_gib: 0.0 is not allowed; give a number above 0"),
        (
            ["--data.path", "nowhere", "--model.image_shape", "[3, 8, 8]", "--model.class_conditional", "true"],
            "model.num_classes is not set; give it, as in 10, or the data.path .* .nowhere",
        ),
        (
            ["--data.path", "nowhere"],
            r"image_shape is not set; give it, as in '\[3, 64, 64\]', or the data\.path .* .nowhere",
        ),
        (
            ["--config", "configs/cifar10.yaml", "--num_processes", "3", "--parallel", "{mode: pipeline, stages: 2}"],
            "parallel.stages: 2, but 3 processes are not a multiple of it",
        ),
    ],
)
def test_mistakes_are_errors_of_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        plan.main(arguments)
    assert "\n" not in str(error.value)
