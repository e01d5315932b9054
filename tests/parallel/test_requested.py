"""What people type for accelerate launch is honoured, or refused by its name."""

import os

import pytest
from accelerate.commands import launch as accelerate_launch
from accelerate.utils.launch import prepare_multi_gpu_env
from conftest import run_ranks, tiny_config
from training_runs import options

from glow.config import ParallelConfig, TrainRun
from glow.parallel.requested import as_requested
from glow.training.checkpoints.reading import read_config
from pipelines import train as train_stage

FSDP_FILE = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_activation_checkpointing: true
  fsdp_reshard_after_forward: true
  fsdp_state_dict_type: SHARDED_STATE_DICT
mixed_precision: bf16
num_machines: 1
num_processes: 2
use_cpu: false
"""


def environment_of(arguments, monkeypatch):
    """What accelerate launch would give to the processes, without starting them."""
    given = []
    monkeypatch.setattr(accelerate_launch, "multi_gpu_launcher", lambda args: given.append(prepare_multi_gpu_env(args)))
    parser = accelerate_launch.launch_command_parser()
    accelerate_launch.launch_command(parser.parse_args([*arguments, "-m", "pipelines.train"]))
    return {name: value for name, value in given[0].items() if os.environ.get(name) != value}


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """Set the environment of a process that accelerate launch starts with some arguments."""
    (tmp_path / "fsdp.yaml").write_text(FSDP_FILE)

    def launch(*arguments):
        common = [] if "--config_file" in arguments else ["--mixed_precision", "no", "--num_machines", "1"]
        arguments = [argument.replace("DIR", str(tmp_path)) for argument in arguments]
        for name, value in environment_of([*common, "--num_processes", "4", *arguments], monkeypatch).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")

    return launch


def run_of(**changes):
    return TrainRun("x", tiny_config(), **changes)


@pytest.mark.parametrize(
    ("arguments", "expected", "said"),
    [
        (["--use_fsdp"], {"mode": "fsdp"}, ["accelerate launch --use_fsdp: parallel.mode fsdp"]),
        (["--use_fsdp", "--fsdp_version", "2"], {"mode": "fsdp"}, ["accelerate launch --use_fsdp: parallel.mode fsdp"]),
        (
            ["--use_fsdp", "--fsdp_sharding_strategy", "HYBRID_SHARD"],
            {"mode": "hsdp", "shards": 4},
            ["accelerate launch --use_fsdp: parallel.mode hsdp, parallel.shards 4"],
        ),
        (["--use_fsdp", "--fsdp_sharding_strategy", "NO_SHARD"], {}, []),
        (
            ["--use_fsdp", "--fsdp_activation_checkpointing", "true"],
            {"mode": "fsdp", "memory": "checkpoint"},
            [
                "accelerate launch --use_fsdp: parallel.mode fsdp",
                "accelerate launch --fsdp_activation_checkpointing true: memory checkpoint",
            ],
        ),
        (
            ["--config_file", "DIR/fsdp.yaml"],
            {"mode": "fsdp", "memory": "checkpoint"},
            [
                "accelerate launch --use_fsdp: parallel.mode fsdp",
                "accelerate launch --fsdp_activation_checkpointing true: memory checkpoint",
            ],
        ),
        (
            ["--multi_gpu", "--dynamo_backend", "inductor"],
            {"compile": True},
            ["accelerate launch --dynamo_backend inductor: compile true"],
        ),
        (["--multi_gpu", "--dynamo_backend", "no"], {}, []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_requests_become_options(launched, arguments, expected, said):
    launched(*arguments)
    expected = dict(expected)
    parallel = ParallelConfig(**{name: expected.pop(name) for name in ("mode", "shards") if name in expected})
    assert as_requested(run_of()) == (run_of(parallel=parallel, **expected), said)
    assert as_requested(run_of())[0] == run_of(compile=False)  # taken out of the environment, where Accelerate looks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--use_fsdp", "--fsdp_offload_params", "true"], "--fsdp_offload_params true is not supported"),
        (["--multi_gpu", "--dynamo_backend", "eager"], "--dynamo_backend eager is not supported: give inductor or no"),
        (
            ["--multi_gpu", "--dynamo_backend", "inductor", "--dynamo_mode", "max-autotune"],
            "--dynamo_mode max-autotune is not supported: leave it out",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(launched, arguments, message):
    launched(*arguments)
    with pytest.raises(ValueError, match=message):
        as_requested(run_of())


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("DEEPSPEED", r"--use_deepspeed is not supported"),
        ("MEGATRON_LM", r"--use_megatron_lm is not supported"),
        ("PARALLELISM_CONFIG", r"choose parallel\.mode \(ddp, fsdp, hsdp or pipeline; there is no tensor"),
    ],
)
def test_other_engines_are_refused(monkeypatch, engine, message):
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(ValueError, match=message):
        as_requested(run_of())


def test_sizes_of_the_parallelism_config(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("PARALLELISM_CONFIG_DP_REPLICATE_SIZE", "2")
    monkeypatch.setenv("PARALLELISM_CONFIG_DP_SHARD_SIZE", "8")
    assert as_requested(run_of())[0].parallel == ParallelConfig(mode="hsdp", shards=8)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("PARALLELISM_CONFIG_TP_SIZE", "2")
    with pytest.raises(ValueError, match="there is no tensor, context or sequence parallelism"):
        as_requested(run_of())


def test_launcher_and_configuration_may_not_disagree(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"parallel\.mode: pipeline, but accelerate launch was given --use_fsdp"):
        as_requested(run_of(parallel=ParallelConfig(mode="pipeline", stages=2)))


def train_as_with_fsdp(arguments):
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    os.environ["FSDP_ACTIVATION_CHECKPOINTING"] = "true"
    train_stage.main(arguments)


def test_training_does_what_was_requested(dataset, tmp_path):
    run_ranks(train_as_with_fsdp, 2, options(dataset, tmp_path, "--train.num_steps", "1"))
    run = read_config(tmp_path / "checkpoints/step-00000001")
    assert (run.parallel.mode, run.memory) == ("fsdp", "checkpoint")


@pytest.mark.parametrize(("name", "processes", "machines"), [("gpu8", 8, 1), ("gpu2x8", 16, 2), ("cpu2", 2, 1)])
def test_files_for_the_launcher_start_as_many_processes_as_they_say(monkeypatch, name, processes, machines):
    given = []
    monkeypatch.setattr(accelerate_launch, "multi_gpu_launcher", given.append)
    parser = accelerate_launch.launch_command_parser()
    extra = ["--machine_rank", "1", "--main_process_ip", "localhost"] if machines > 1 else []
    arguments = ["--config_file", f"configs/accelerate/{name}.yaml", *extra, "-m", "pipelines.train"]
    accelerate_launch.launch_command(parser.parse_args(arguments))
    assert (int(given[0].num_processes), int(given[0].num_machines)) == (processes, machines)
    assert as_requested(run_of()) == (run_of(), [])
