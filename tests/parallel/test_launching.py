"""The launcher and the configuration have to agree."""

import pytest
from accelerate import Accelerator
from conftest import run_ranks
from torch.nn.parallel import DistributedDataParallel
from training_runs import options

from glow.parallel import launching
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


def test_more_processes_than_the_group_are_refused(dataset, tmp_path, monkeypatch):
    Accelerator(cpu=True)  # keeps its state, and so does not see what the launcher says
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were launched, but this one belongs to a group of 1"):
        train_stage.main(options(dataset, tmp_path))


def test_collectives_wait_as_long_as_the_configuration_says(dataset, tmp_path, monkeypatch):
    given = []
    build = launching.Accelerator
    monkeypatch.setattr(
        launching, "Accelerator", lambda kwargs_handlers, **options: given.extend(kwargs_handlers) or build(**options)
    )
    train_stage.main(options(dataset, tmp_path, "--train.num_steps", "1", "--parallel.timeout_s", "77"))
    assert given[0].timeout.total_seconds() == 77


def buffers_sent(arguments):
    """Whether DDP sends buffers in a pass, and whether gradients lie in what it sends."""
    wrapped = []
    forward = DistributedDataParallel.forward

    def observe(self, *inputs):
        wrapped.append([self.will_sync_module_buffers(), self.gradient_as_bucket_view])
        return forward(self, *inputs)

    DistributedDataParallel.forward = observe
    train_stage.main(arguments)
    return wrapped


def test_constant_buffers_are_not_sent_in_every_step(dataset, tmp_path):
    arguments = options(dataset, tmp_path / "images", "--train.num_steps", "1")
    assert run_ranks(buffers_sent, 2, arguments) == [[[False, True]]] * 2
    arguments = ["--config", "configs/moons.yaml", "--output", str(tmp_path / "vectors"), "--train.num_steps", "1"]
    arguments += ["--flow.normalization", "batchnorm", "--train.batch_size", "8"]
    assert run_ranks(buffers_sent, 2, arguments) == [[[True, True]]] * 2
