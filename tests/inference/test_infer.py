"""The infer stage: its report, resuming, processes, own functions, and what is refused."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from conftest import run_ranks
from PIL import Image
from training_runs import assert_same_checkpoint, comparable

from glow.config import FlowConfig, TargetConfig, TrainRun
from glow.evaluation.vectors import log_prob
from glow.inference.energies import Energy
from glow.inference.posterior import draw, noise_batches
from glow.models.flow import build_flow
from glow.training.checkpoints.models import load_flow
from glow.training.metrics import read_metrics
from pipelines import infer as infer_stage
from pipelines import sample as sample_stage
from pipelines import train as train_stage

FEW = ["--train.num_steps", "12", "--train.log_every", "1", "--train.validate_every", "6"]


FEW += ["--train.checkpoint_every", "6", "--num_samples", "2000", "--train.batch_size", "32"]


def infer(output, *extra, config="infer_energy"):
    """Run the stage; return the directory of the report."""
    return infer_stage.main(["--config", f"configs/{config}.yaml", "--output", str(output), *extra])


def test_stage_writes_report_and_a_flow_to_draw_from(tmp_path, capsys):
    output = infer(tmp_path / "run", *FEW, "--flow.normalization", "actnorm")
    assert output == tmp_path / "run" / "posterior" / "step-00000012"
    described = json.loads((output / "posterior.json").read_text())
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(output)
    assert f"ELBO: {described['elbo']['nats']:.4f}" in printed
    assert described["checkpoint"]["step"] == 12
    assert np.load(output / "samples.npy").shape == (2000, 2)
    assert np.asarray(Image.open(output / "posterior.png").convert("L")).std() > 10
    flow = load_flow(tmp_path / "run")
    x, log_q = flow.sample_and_log_prob(50)
    assert np.allclose(log_prob(flow, x.detach().numpy()), log_q.detach().numpy(), atol=1e-3)
    samples = sample_stage.main(["--checkpoint", str(tmp_path / "run"), "--num_points", "30"])
    assert {path.name for path in samples.iterdir()} == {"samples.npy", "samples.json"}
    infer(tmp_path / "run", *FEW, "--flow.normalization", "actnorm")
    assert "is finished (" in capsys.readouterr().out


def test_metrics_are_the_bound_in_nats(tmp_path):
    output = infer(tmp_path / "run", *FEW, "--target.anneal_steps", "0", "--num_samples", "20000")
    lines = read_metrics(tmp_path / "run")
    assert not any("bits_per_dim" in key for line in lines for key in line)
    assert lines[-1]["train/elbo_nats"] > lines[0]["train/elbo_nats"]
    elbo = json.loads((output / "posterior.json").read_text())["elbo"]
    assert lines[-1]["validation/elbo_nats"] == pytest.approx(elbo["nats"], abs=6 * elbo["standard_error"])
    assert 0 < lines[-1]["validation/effective_samples"] <= 1


def test_resumed_inference_is_bitwise_the_same(tmp_path):
    options = [*FEW, "--optimizer.schedule", "constant", "--flow.num_layers", "2"]
    infer(tmp_path / "straight", *options, config="infer_planar")
    infer(tmp_path / "parts", *options, "--train.num_steps", "6", config="infer_planar")
    infer(tmp_path / "parts", *options, config="infer_planar")
    last = "checkpoints/step-00000012"
    assert_same_checkpoint(tmp_path / "straight" / last, tmp_path / "parts" / last)
    assert comparable(tmp_path / "straight")[6:] == comparable(tmp_path / "parts")[6:]


def infer_of_two(output):
    report = infer(output, *FEW)
    return None if report is None else str(report)


def test_two_processes_fit_what_one_fits(tmp_path):
    infer(tmp_path / "one", *FEW)
    reports = run_ranks(infer_of_two, 2, tmp_path / "two")
    assert reports == [str(tmp_path / "two" / "posterior" / "step-00000012"), None]
    one, two = (read_metrics(tmp_path / name)[-1] for name in ("one", "two"))
    for key in ("train/elbo_nats", "validation/elbo_nats", "train/grad_norm"):
        assert one[key] == pytest.approx(two[key], rel=1e-4)


def test_own_function_is_fitted_and_its_checkpoint_runs_no_code(tmp_path, monkeypatch):
    function = ["--target.function", "own_targets:correlated", "--flow.num_dims", "2"]
    run = tmp_path / "run"
    output = infer_stage.main([
        "--output", str(run), *function, "--flow.linear", "true", "--flow.base", "learned",
        "--optimizer.name", "adam", "--optimizer.lr", "0.02", "--optimizer.schedule", "cosine",
        "--train.num_steps", "250", "--train.ema_decay", "0.9", "--num_samples", "20000",
    ])  # fmt: skip
    described = json.loads((output / "posterior.json").read_text())
    assert described["kl"]["nats"] < 0.02
    assert [dimension["mean"] for dimension in described["dimensions"]] == pytest.approx([1, -2], abs=0.1)
    assert described["correlation"][0][1] == pytest.approx(0.6, abs=0.1)
    # What a file names is not imported.
    monkeypatch.setitem(sys.modules, "own_targets", None)
    assert load_flow(run).num_dims == 2
    with pytest.raises(ValueError, match="own_targets:correlated: a function is taken from the command line only"):
        infer_stage.main(["--config", str(run / "config.yaml")])


@pytest.mark.parametrize(
    ("function", "num_dims", "message"),
    [
        (
            "two_columns",
            2,
            r"target own_targets:two_columns: returned \[32, 1\] of torch.float32 for x \[32, 2\]; one log-density for",
        ),
        (
            "one_number",
            2,
            r"own_targets:one_number: returned \[\] of torch.float32 for x \[32, 2\]; .* a tensor \[32\]",
        ),
        ("a_number", 2, r"own_targets:a_number: returned float for x \[32, 2\]"),
        ("not_a_number", 2, r"not_a_number: log-density is NaN or infinite at \d+ of 32 points, first at \["),
        ("bounded", 2, r"bounded: log-density is NaN or infinite at \d+ of 32 points"),
        ("kink", 2, r"kink: gradient is NaN or infinite at 32 of 32 points"),
        ("of_numpy", 2, r"of_numpy: returned numbers without a gradient; compute them by torch"),
        ("apart", 2, r"apart: returned numbers without a gradient; compute them by torch, from x"),
        ("of_complex", 2, r"of_complex: returned \[32\] of torch.complex64 .* of real numbers"),
        ("divided", 2, r"divided: failed on x \[32, 2\] of torch.float32: integer division or modulo by zero"),
        ("of_three", 2, r"of_three: failed on x \[32, 2\] of torch.float32: "),
        ("number", 2, r"own_targets:number: a int, not a function of x \[N, D\]"),
        ("missing", 2, r"target\.function own_targets:missing: module 'own_targets' has no attribute 'missing'"),
        (
            "correlated",
            None,
            r"flow\.num_dims is not set; give the dimension of the x that own_targets:correlated takes",
        ),
    ],
)
def test_useless_function_is_an_error_of_one_line_that_names_it(tmp_path, function, num_dims, message):
    dims = [] if num_dims is None else ["--flow.num_dims", str(num_dims)]
    arguments = ["--output", str(tmp_path / "run"), "--target.function", f"own_targets:{function}", *dims, *FEW]
    with pytest.raises(ValueError, match=message) as error:
        infer_stage.main(arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--flow.num_dims", "3"], r"flow\.num_dims: 3, but target u1 has 2 dimensions"),
        (["--target.prior_std", "2"], r"target\.prior_std: 2\.0 .* set target\.name to logistic"),
        (["--target.function", "a:b"], r"target\.function: 'a:b' .* leave out target\.function or target\.name"),
        (["--flow.normalization", "batchnorm"], r"flow\.normalization: 'batchnorm' is not allowed"),
        (["--vectors.name", "moons"], r"vectors\.name: 'moons' .* a target is fitted without data"),
        (["--target.name", "u5"], r"target\.name"),
        (
            ["--flow.inverse", "true"],
            r"flow\.inverse: true is not allowed; leave it out: affine and additive couplings",
        ),
    ],
)
def test_options_that_contradict_the_target_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        infer(tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_target_must_be_given():
    with pytest.raises(ValueError, match=r"target\.name is not set; give it, or target\.function"):
        infer_stage.main(["--output", "x"])
    with pytest.raises(ValueError, match=r"target\.anneal_steps: 5 .* set target\.name or target\.function"):
        TargetConfig(anneal_steps=5)
    with pytest.raises(ValueError, match=r"target\.function: 'module' is not allowed; give MODULE:FUNCTION"):
        TargetConfig(function="module")
    assert TrainRun("x", target=TargetConfig("logistic")).is_of_vectors


def test_another_target_does_not_go_on_with_a_run(tmp_path):
    infer(tmp_path / "run", *FEW)
    with pytest.raises(ValueError, match=r"u2: not the target that the run in .* started with"):
        infer(tmp_path / "run", *FEW, "--target.name", "u2")


def test_target_that_fails_in_training_stops_it(tmp_path, monkeypatch):
    def flaw(target, x):
        return torch.full((len(x),), math.nan) * x[:, 0]

    monkeypatch.setattr(Energy, "check", lambda target, x: None)
    monkeypatch.setattr(Energy, "log_density", flaw)
    with pytest.raises(ValueError, match=r"step 1: loss nan, .* first seen in target; nothing was updated"):
        train_stage.main(["--config", "configs/infer_energy.yaml", "--output", str(tmp_path / "run")])
    flow = build_flow(FlowConfig(2))
    with pytest.raises(ValueError, match=r"target u1: NaN or infinite at 50 of 50 samples of the flow, first at \["):
        draw(flow, Energy("u1"), noise_batches(2, 50, 0))
