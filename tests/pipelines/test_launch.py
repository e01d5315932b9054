"""Training as users start it, by accelerate launch or torchrun: the same for any number of processes, and any fault."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import launched
import pytest
import torch
from accelerate.commands import launch as accelerate_launch
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from conftest import run_ranks
from training_runs import assert_same_checkpoint, comparable

from glow.data.read.reader import SplitReader
from glow.training.checkpoints.reading import read_state, read_tensors
from glow.training.metrics import read_metrics
from glow.training.trainer import Trainer
from pipelines import train as train_stage

STEPS = 30


def options(dataset, output, *extra):
    """Arguments of a training whose global batch neither 2 nor 3 divides; an epoch has 7.5 steps.

    Plain momentum, because Adam and its kin divide gradients by their size: where they are nearly zero, rounding
    decides the direction. With adamax, losses differ by up to 6e-5 within 30 steps; with sgd, by 4e-7.
    """
    return [
        "--config", "configs/smoke.yaml", "--data.path", str(dataset), "--output", str(output),
        "--model.hidden_channels", "8", "--optimizer.name", "sgd", "--optimizer.lr", "0.05",
        "--train.num_steps", str(STEPS), "--train.batch_size", "13", "--train.validate_every", "10",
        "--train.checkpoint_every", "1", "--train.keep_every", "1", *extra,
    ]  # fmt: skip


def launch(num_processes, arguments, module="launched", fault="0 0 none"):
    """Run ``accelerate launch`` to its end."""
    multiple = ["--config_file", "configs/accelerate/cpu2.yaml", "--num_processes", str(num_processes)]
    return run_launcher("accelerate.commands.launch", *multiple, "-m", module, *arguments, FAULT=fault)


def torchrun(num_processes, arguments, module="launched"):
    """Run ``torchrun`` to its end, as ``python -m``."""
    processes = ["--standalone", "--nproc_per_node", str(num_processes)]
    return run_launcher("torch.distributed.run", *processes, "-m", module, *arguments)


def run_launcher(launcher, *arguments, **environment):
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests.parent), str(tests)])
    environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-m", launcher, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def train_alone(arguments):
    """Train in this process, with a record of the keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", launched.observe(Trainer.train_step))
        train_stage.main(arguments)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(dataset, runs):
    train_alone(options(dataset, runs / "alone"))
    return runs / "alone"


@pytest.fixture(scope="module")
def pair(dataset, runs):
    done = launch(2, options(dataset, runs / "pair"), "pipelines.train")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(runs / "pair/checkpoints/step-00000030")
    return runs / "pair"


@pytest.fixture(scope="module")
def three(dataset, runs):
    done = torchrun(3, options(dataset, runs / "three", "--train.microbatch_size", "3", "--num_processes", "3"))
    assert done.returncode == 0, done.stderr
    return runs / "three"


@pytest.fixture(scope="module")
def disturbed(dataset, runs):
    """Two processes: one is killed, and the same command again; both are stopped, and the same command again."""
    run = runs / "disturbed"
    done = launch(2, options(dataset, run), fault="7 1 kill")
    assert done.returncode == 1
    assert "exitcode  : -9" in done.stderr
    done = launch(2, options(dataset, run), fault="14 0 stop-file")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "stopped.json").read_text()) == {"step": 14, "reason": "stop file"}
    done = launch(2, options(dataset, run))
    assert done.returncode == 0, done.stderr
    assert not (run / "stopped.json").exists()
    return run


@pytest.fixture(scope="module")
def resized(dataset, runs, disturbed):
    """Ten steps with 2 processes, ten with 3 up to a SIGTERM to the launcher, ten with 1."""
    run = runs / "resized"
    shutil.copytree(disturbed, run)
    for step in range(11, STEPS + 1):
        shutil.rmtree(run / f"checkpoints/step-{step:08d}")
    # The signal reaches the workers too.
    workers = ("--num_processes", "3", "--data.num_workers", "1")
    done = launch(3, options(dataset, run, *workers), fault="20 1 terminate-launcher")
    # torch's launcher hands the signal down and waits; all three end well, but it fails of its own SIGTERM.
    assert done.returncode == 1
    assert "exitcode" not in done.stderr
    assert "got signal: 15" in done.stderr
    assert json.loads((run / "stopped.json").read_text())["step"] == 20
    train_alone(options(dataset, run, "--num_processes", "1"))
    return run


def assert_close_runs(a, b):
    """Compare all but the error of the inverse, which is rounding itself. Losses differ by up to 4e-7."""
    for one, other in zip(comparable(a), comparable(b), strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"health/inverse_error"}:
            assert one[key] == pytest.approx(other[key], rel=1e-5), key


def assert_close_checkpoints(a, b, step, tolerance):
    """Compare all tensors: weights moved by up to 0.4 in the 30 steps, and differ by up to 4e-7."""
    for name in ("model", "ema", "optimizer"):
        left, right = (read_tensors(run / f"checkpoints/step-{step:08d}", name) for run in (a, b))
        assert left.keys() == right.keys()
        for key in left:
            torch.testing.assert_close(left[key], right[key], rtol=0, atol=tolerance, msg=f"{name}: {key}")


@pytest.mark.parametrize("world", ["pair", "three"])
def test_training_is_that_of_one_process(alone, world, request):
    run = request.getfixturevalue(world)
    num_processes = {"pair": 2, "three": 3}[world]
    assert json.loads((run / "environment.json").read_text())["num_processes"] == num_processes
    assert len(read_metrics(run)) == STEPS
    assert_close_runs(alone, run)
    # The first shows the data-dependent initialisation.
    assert_close_checkpoints(alone, run, 1, 1e-6)
    assert_close_checkpoints(alone, run, STEPS, 5e-6)


@pytest.mark.parametrize("world", ["alone", "three", "disturbed", "resized"])
def test_every_step_reads_the_same_images_and_every_epoch_each_image_once(dataset, alone, world, request):
    run = request.getfixturevalue(world)
    keys = launched.read_keys(run)
    assert keys == launched.read_keys(alone)
    assert [len(step) for step in keys] == [13] * STEPS
    sequence, count = [key for step in keys for key in step], len(SplitReader(dataset, "train"))
    epochs = [sequence[start : start + count] for start in range(0, len(sequence) - count + 1, count)]
    assert len(epochs) == 4
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == count for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_kill_9_and_a_stop_change_nothing(pair, disturbed):
    for step in (7, 14, STEPS):
        assert_same_checkpoint(*(run / f"checkpoints/step-{step:08d}" for run in (pair, disturbed)))
    assert comparable(pair) == comparable(disturbed)


def test_training_goes_on_with_another_number_of_processes(alone, resized):
    counts = [read_state(resized / f"checkpoints/step-{step:08d}").num_processes for step in range(1, STEPS + 1)]
    assert counts == [2] * 10 + [3] * 10 + [1] * 10
    assert_close_runs(alone, resized)
    assert_close_checkpoints(alone, resized, STEPS, 5e-6)


def test_processes_whose_launcher_is_killed_save_and_end(dataset, tmp_path):
    done = launch(2, options(dataset, tmp_path), fault="5 1 kill-launcher")
    assert done.returncode == -9
    assert json.loads((tmp_path / "stopped.json").read_text()) == {"step": 5, "reason": "launcher ended"}
    assert (tmp_path / "checkpoints/step-00000005").is_dir()
    assert "stopped after step 5; give the same command to resume" in done.stdout


def test_users_mistake_is_printed_once(tmp_path):
    """The launcher's own report follows: it cannot be told to leave it out."""
    done = torchrun(2, ["--output", str(tmp_path / "run"), "--data.path", "nowhere"], "pipelines.train")
    assert done.returncode == 1
    assert done.stderr.count("error: nowhere: no such folder; give that of a data set") == 1


# The number of processes is what was asked for


def test_launch_of_several_processes_that_starts_one_is_refused(dataset, tmp_path):
    arguments = ["--cpu", "--num_processes", "2", "-m", "pipelines.train", *options(dataset, tmp_path / "run")]
    done = run_launcher("accelerate.commands.launch", *arguments)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: accelerate launch was asked for several processes or machines")
    assert not (tmp_path / "run").exists()


CONFIG_FILE = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
use_cpu: true
num_processes: 2
"""


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        (["--cpu", "--num_processes", "2"], True),
        (["--cpu", "--num_machines", "2", "--main_process_ip", "localhost", "--main_process_port", "29500"], True),
        (["--config_file", "FILE"], True),
        (["--cpu", "--num_processes", "1"], False),
        (["--cpu"], False),
    ],
)
def test_what_the_launcher_leaves_tells_that_it_was_asked_for_several(
    dataset, tmp_path, monkeypatch, reset_accelerate, asked, refused
):
    (tmp_path / "config.yaml").write_text(CONFIG_FILE)
    asked = [str(tmp_path / "config.yaml") if word == "FILE" else word for word in asked]
    started = []  # what the launcher would run, without running it
    monkeypatch.setattr(accelerate_launch, "simple_launcher", started.append)
    accelerate_launch.launch_command(accelerate_launch.launch_command_parser().parse_args([*asked, "x.py"]))
    _, environment = prepare_simple_launcher_cmd_env(started[0])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    arguments = options(dataset, tmp_path / "run", "--train.num_steps", "1")
    if refused:
        with pytest.raises(ValueError, match=r"asked for several processes or machines.* but this process is alone"):
            train_stage.main(arguments)
        with pytest.raises(ValueError, match="num_processes: 2, but 1 takes part"):
            train_stage.main([*arguments, "--num_processes", "2"])
        assert not (tmp_path / "run").exists()
        arguments += ["--num_processes", "1"]
    train_stage.main(arguments)


def refusal(arguments):
    with pytest.raises(ValueError, match=r"\A.*\Z") as error:
        train_stage.main(arguments)
    return str(error.value)


def test_other_number_of_processes_is_refused_by_all(dataset, tmp_path):
    said = run_ranks(refusal, 2, [*options(dataset, tmp_path / "run"), "--num_processes", "3"])
    assert len(said) == 2
    assert all(
        text.startswith("num_processes: 3, but 2 take part; to start several, use accelerate launch") for text in said
    )
    assert not (tmp_path / "run").exists()


def test_number_of_processes_below_one_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="num_processes: 0 is not allowed; give 1 or more"):
        train_stage.main(options(dataset, tmp_path, "--num_processes", "0"))
