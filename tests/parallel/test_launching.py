"""The launcher and the configuration have to agree."""

import pytest
from accelerate import Accelerator
from training_runs import options

from glow.training.metrics import read_metrics
from pipelines import train as train_stage


def test_launcher_and_configuration_may_not_disagree_about_precision(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match=r"mixed_precision: bf16, but accelerate launch was given --mixed_pr\S+ fp16"):
        train_stage.main(options(dataset, tmp_path, "--train.mixed_precision", "bf16"))
    train_stage.main(options(dataset, tmp_path, "--train.num_steps", "1"))
    assert "train/loss_scale" in read_metrics(tmp_path)[0]


def test_precision_that_is_not_offered_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match="--mixed_precision fp8 is not supported; choose one of no, bf16, fp16"):
        train_stage.main(options(dataset, tmp_path))


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("FSDP", r"--use_fsdp is not supported: give --parallel\.mode fsdp instead"),
        ("PARALLELISM_CONFIG", r"choose parallel\.mode \(ddp, fsdp, hsdp or pipeline; there is no tensor"),
        ("DEEPSPEED", r"--use_deepspeed is not supported"),
        ("MEGATRON_LM", r"--use_megatron_lm is not supported"),
    ],
)
def test_other_engines_of_the_launcher_are_refused(dataset, tmp_path, monkeypatch, engine, message):
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(ValueError, match=message):
        train_stage.main(options(dataset, tmp_path))


def test_more_processes_than_the_group_are_refused(dataset, tmp_path, monkeypatch):
    Accelerator(cpu=True)  # keeps its state, and so does not see what the launcher says
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were launched, but this one belongs to a group of 1"):
        train_stage.main(options(dataset, tmp_path))
