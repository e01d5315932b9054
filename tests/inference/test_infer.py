"""Variational inference: the bound, the stage and its report, and what is refused."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import perturb, run_ranks
from PIL import Image
from training_runs import assert_same_checkpoint, comparable

from glow.bijectors.base import Inverse
from glow.config import FlowConfig, TargetConfig, TrainRun
from glow.data.read.batch import Share
from glow.data.vectors.noise import NUM_VALIDATION, Noise
from glow.evaluation.vectors import log_prob, picture
from glow.inference.elbo import Elbo
from glow.inference.posterior import Draws, Grid, describe, draw, grid_of, noise_batches, plot_posterior
from glow.inference.tables import breast_cancer
from glow.inference.targets import Energy, FunctionTarget, LogisticRegression
from glow.models.flow import build_flow
from glow.training.checkpoints.models import load_flow
from glow.training.metrics import read_metrics
from glow.training.tasks.target import TargetTask
from pipelines import infer as infer_stage
from pipelines import sample as sample_stage
from pipelines import train as train_stage

REFERENCE = json.loads(Path("tests/reference/logistic.json").read_text())
FEW = ["--train.num_steps", "12", "--train.log_every", "1", "--train.validate_every", "6"]
FEW += ["--train.checkpoint_every", "6", "--num_samples", "2000", "--train.batch_size", "32"]


def infer(output, *extra, config="infer_energy"):
    """Run the stage; return the directory of the report."""
    return infer_stage.main(["--config", f"configs/{config}.yaml", "--output", str(output), *extra])


def correlated(x):
    """A Gaussian with means 1 and -2, standard deviations 1 and 0.5, correlation 0.6, and integral e^3."""
    a, b = x[:, 0] - 1, (x[:, 1] + 2) / 0.5
    quadratic = (a.square() - 1.2 * a * b + b.square()) / (1 - 0.6**2)
    return 3 - 0.5 * quadratic - math.log(2 * math.pi * 0.5 * math.sqrt(1 - 0.6**2))


def two_columns(x):
    return x[:, :1]


def one_number(x):
    return -x.square().sum()


def a_number(x):
    return 1.0


def not_a_number(x):
    return torch.where(x[:, 0] > 0, -x.square().sum(1), torch.nan)


def bounded(x):
    return torch.where(x.abs().amax(1) < 0.5, 0.0, -torch.inf) + 0 * x[:, 0]


def of_numpy(x):
    return torch.from_numpy(-np.square(x.detach().numpy()).sum(1))


def apart(x):
    return (x.detach() * torch.ones(2, requires_grad=True)).sum(1)


def of_complex(x):
    return x.sum(1).to(torch.complex64)


def divided(x):
    return x[:, 0] / (1 // 0)


def of_matrices(x):
    return -(x @ torch.eye(2) * x).sum(1)


def of_three(x):
    return -(x @ torch.ones(3)).square()


def kink(x):
    return -x.square().sum(1) - (0 * x[:, 0]).sqrt()


number = 3


# The bound


@pytest.mark.parametrize("kind", ["affine", "mixture", "planar", "radial"])
def test_bound_is_target_minus_log_density_of_the_sample(kind):
    inverse = True if kind in ("planar", "radial", "mixture") else None
    flow = build_flow(FlowConfig(2, kind, 3, inverse=inverse)).double()
    perturb(flow, 0.3)
    elbo, noise = Elbo(flow, Energy("u3").double()), torch.randn(7, 2, dtype=torch.float64)
    beta = torch.linspace(0, 1, 7, dtype=torch.float64)
    x = flow.sample(noise)
    assert torch.allclose(elbo(noise, beta), beta * Energy("u3").double()(x) - flow.log_prob(x))


@pytest.mark.parametrize(("kind", "inverse"), [("planar", True), ("radial", True), ("mixture", True), ("affine", None)])
def test_layers_whose_inverse_is_no_closed_form_are_turned_around(kind, inverse):
    task = TargetTask(TrainRun("x", flow=FlowConfig(kind=kind), target=TargetConfig("u2")))
    assert task.run.flow == FlowConfig(2, kind, inverse=inverse)
    layers = task.build_model().flow.bijector.bijectors
    assert [isinstance(layer, Inverse) for layer in layers] == [bool(inverse)] * 4
    assert TargetTask(TrainRun("x", flow=FlowConfig(kind="planar", inverse=False), target=TargetConfig("u2")))


def test_target_is_not_trained():
    net = torch.nn.Linear(2, 1)
    elbo = Elbo(build_flow(FlowConfig(2)), FunctionTarget("net", lambda x: net(x)[:, 0], 2))
    module = Elbo(build_flow(FlowConfig(2)), FunctionTarget("net", torch.nn.Sequential(net, torch.nn.Flatten(0)), 2))
    own = {f"flow.{name}" for name in build_flow(FlowConfig(2)).state_dict()}
    for objective in (
        elbo,
        module,
        Elbo(build_flow(FlowConfig(2)), LogisticRegression(torch.ones(2, 1), torch.ones(2))),
    ):
        assert set(objective.state_dict()) == own
        assert {name for name, _ in objective.named_parameters()} <= own


def test_batches_depend_on_seed_and_step_alone_and_beta_rises():
    noise = Noise(3, anneal_steps=4)

    def take(start, count, seed=0, share=None):
        batches = noise.train_batches(10, seed, start, share)
        return [next(batches) for _ in range(count)]

    whole = take(0, 6)
    assert [float(batch.beta[0]) for batch in whole] == pytest.approx([0.01, 0.2575, 0.505, 0.7525, 1, 1])
    assert torch.equal(take(50, 1)[0].noise, whole[5].noise)
    parts = [take(0, 6, share=Share(rank, 3)) for rank in range(3)]
    for mine, batch in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.equal(torch.cat([part.noise for part in mine]), batch.noise)
    assert not torch.equal(take(0, 1, seed=1)[0].noise, whole[0].noise)
    assert not torch.equal(whole[0].noise, whole[1].noise)


def test_validation_noise_is_shared_out_once():
    parts = [batch for rank in range(3) for batch in Noise(2, 9).validation_batches(999, 0, Share(rank, 3))]
    whole = torch.cat([batch.noise for batch in parts])
    assert len(whole) == NUM_VALIDATION
    assert torch.equal(whole, next(iter(Noise(2).validation_batches(NUM_VALIDATION, 0))).noise)
    assert all((batch.beta == 1).all() for batch in parts)


# The report


def test_fit_of_a_gaussian_to_itself_is_exact():
    target = FunctionTarget("gaussian", correlated, 2)
    flow = build_flow(FlowConfig(2, linear=True, base="learned", num_layers=1))
    with torch.no_grad():  # W x standard normal + mean has the covariance of the target
        factor = torch.linalg.cholesky(torch.tensor([[1.0, 0.3], [0.3, 0.25]]))
        linear = flow.bijector.bijectors[0]
        linear.permutation.copy_(torch.eye(2))
        inverse = factor.inverse()
        linear.lower.copy_(torch.tensor([[0.0, 0.0], [inverse[1, 0] / inverse[0, 0], 0.0]]))
        linear.upper.zero_()
        linear.sign.fill_(1.0)
        linear.log_s.copy_(inverse.diagonal().log())
        flow.base.mean.copy_(inverse @ torch.tensor([1.0, -2.0]))
    draws = draw(flow, target, noise_batches(2, 20_000, 0))
    described = describe(draws, target)
    assert described["elbo"]["nats"] == pytest.approx(3, abs=1e-5)
    assert described["importance"]["log_normalizer"]["nats"] == pytest.approx(3, abs=1e-5)
    assert described["importance"]["effective_sample_fraction"] == pytest.approx(1, abs=1e-6)
    assert described["quadrature"]["log_normalizer_nats"] == pytest.approx(3, abs=1e-5)
    assert described["kl"]["nats"] == pytest.approx(0, abs=1e-5)
    means, stds = ([dimension[key] for dimension in described["dimensions"]] for key in ("mean", "std"))
    assert means == pytest.approx([1, -2], abs=0.03)
    assert stds == pytest.approx([1, 0.5], rel=0.03)
    assert described["correlation"][0][1] == pytest.approx(0.6, abs=0.03)


def test_estimates_of_a_gaussian_that_is_too_wide_are_their_closed_forms():
    # q = N(0, 1), target = 5 N(0, s^2): E[log p - log q], and E[w]^2 / E[w^2].
    s, x = 0.8, np.random.default_rng(0).normal(size=(200_000, 1))
    log_flow = -0.5 * np.square(x[:, 0]) - 0.5 * math.log(2 * math.pi)
    log_target = math.log(5) - 0.5 * np.square(x[:, 0] / s) - math.log(s) - 0.5 * math.log(2 * math.pi)
    draws = Draws(x, log_flow, log_target)
    kl = 0.5 * (1 / s**2 - 1) + math.log(s)
    assert abs(draws.elbo.nats - (math.log(5) - kl)) < 4 * draws.elbo.standard_error < 0.02
    assert abs(draws.log_normalizer.nats - math.log(5)) < 4 * draws.log_normalizer.standard_error < 0.02
    assert draws.effective_fraction == pytest.approx(s * math.sqrt(2 - s**2), rel=0.01)


def test_grid_integrates_and_finds_where_the_mass_lies():
    target = FunctionTarget("gaussian", correlated, 2)
    grid = grid_of(target, Draws(np.array([[-1.0, -3.0], [3.0, -1.0]]), None, None), 400)
    assert np.array_equal(grid.low, [-5, -5])
    assert np.array_equal(grid.high, [7, 1])
    assert grid.log_normalizer == pytest.approx(3, abs=1e-4)
    assert grid.edge < 1e-3
    low, high = grid.extent()
    assert np.abs(low - (np.array([1, -2]) - 3.29 * np.array([1, 0.5]))).max() < 0.1
    assert np.abs(high - (np.array([1, -2]) + 3.29 * np.array([1, 0.5]))).max() < 0.1
    flat = Grid(np.zeros(2), np.ones(2), np.zeros((10, 10)))
    assert flat.edge == pytest.approx(0.36)
    assert flat.log_normalizer == pytest.approx(0)


@pytest.mark.parametrize("num_dims", [1, 2, 40])
def test_posterior_of_any_dimension_is_drawn(num_dims):
    flow = build_flow(FlowConfig(num_dims, "radial", 1, inverse=True))
    target = FunctionTarget("gaussian", lambda x: -x.square().sum(1), num_dims)
    image = picture(plot_posterior(draw(flow, target, noise_batches(num_dims, 500, 0)), flow, target))
    assert image.std() > 10


# The stage


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
    assert "nothing to do" in capsys.readouterr().out


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
    function = ["--target.function", "test_infer:correlated", "--flow.num_dims", "2"]
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
    monkeypatch.setitem(sys.modules, "test_infer", None)
    assert load_flow(run).num_dims == 2
    with pytest.raises(ValueError, match="test_infer:correlated: a function is taken from the command line only"):
        infer_stage.main(["--config", str(run / "config.yaml")])


# Figures: what runs of minutes reach, within looser bounds


def fit(flow, target, steps, lr, batch=256, anneal_steps=0):
    elbo, batches = Elbo(flow, target), Noise(target.num_dims, anneal_steps).train_batches(batch, 0)
    optimizer = torch.optim.Adam(flow.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-elbo(*next(batches).inputs).mean()).backward()
        optimizer.step()
        schedule.step()
    return describe(draw(flow, target, noise_batches(target.num_dims, 20_000, 0)), target)


def test_posterior_of_the_logistic_regression_is_that_of_nuts_in_seconds():
    features, labels, _ = breast_cancer()
    target = LogisticRegression(torch.from_numpy(features), torch.from_numpy(labels))
    torch.manual_seed(0)
    flow = build_flow(FlowConfig(31, num_layers=2, hidden_channels=32, linear=True, base="learned"))
    described = fit(flow, target, 300, 0.01, batch=128)
    means, stds = (np.array([line[key] for line in described["dimensions"]]) for key in ("mean", "std"))
    assert REFERENCE["max_r_hat"] < 1.001
    assert np.abs(means - REFERENCE["mean"]).max() < 0.15
    assert np.abs(stds / REFERENCE["std"] - 1).max() < 0.2


@pytest.mark.parametrize(("name", "bound"), [("u1", 0.2), ("u2", 0.2), ("u3", 0.2), ("u4", 0.45)])
def test_couplings_fit_the_energies_in_seconds(name, bound):
    torch.manual_seed(0)
    flow = build_flow(FlowConfig(2, num_layers=6, hidden_channels=32))
    assert fit(flow, Energy(name), 400, 0.01, 128, anneal_steps=100)["kl"]["nats"] < bound


def test_function_gets_float32_in_the_report_too():
    target = FunctionTarget("of_matrices", of_matrices, 2)
    flow = build_flow(FlowConfig(2))
    described = describe(draw(flow, target, noise_batches(2, 1000, 0)), target)
    assert described["quadrature"]["log_normalizer_nats"] == pytest.approx(math.log(math.pi), abs=1e-4)


def test_no_divergence_is_told_where_the_grid_is_too_coarse():
    target = FunctionTarget("narrow", lambda x: -(x / torch.tensor([1.0, 1e-4])).square().sum(1), 2)
    described = describe(draw(build_flow(FlowConfig(2)), target, noise_batches(2, 1000, 0)), target)
    assert "kl" not in described
    assert "quadrature" in described


# What is refused


@pytest.mark.parametrize(
    ("function", "num_dims", "message"),
    [
        (
            "two_columns",
            2,
            r"target test_infer:two_columns: returned \[32, 1\] of torch.float32 for x \[32, 2\]; one log-density for",
        ),
        ("one_number", 2, r"test_infer:one_number: returned \[\] of torch.float32 for x \[32, 2\]; .* a tensor \[32\]"),
        ("a_number", 2, r"test_infer:a_number: returned float for x \[32, 2\]"),
        ("not_a_number", 2, r"not_a_number: log-density is NaN or infinite at \d+ of 32 points, first at \["),
        ("bounded", 2, r"bounded: log-density is NaN or infinite at \d+ of 32 points"),
        ("kink", 2, r"kink: gradient is NaN or infinite at 32 of 32 points"),
        ("of_numpy", 2, r"of_numpy: returned numbers without a gradient; compute them by torch"),
        ("apart", 2, r"apart: returned numbers without a gradient; compute them by torch, from x"),
        ("of_complex", 2, r"of_complex: returned \[32\] of torch.complex64 .* of real numbers"),
        ("divided", 2, r"divided: failed on x \[32, 2\] of torch.float32: integer division or modulo by zero"),
        ("of_three", 2, r"of_three: failed on x \[32, 2\] of torch.float32: "),
        ("number", 2, r"test_infer:number: a int, not a function of x \[N, D\]"),
        ("missing", 2, r"target\.function test_infer:missing: module 'test_infer' has no attribute 'missing'"),
        ("correlated", None, r"flow\.num_dims is not set: give the numbers in an x of test_infer:correlated"),
    ],
)
def test_useless_function_is_an_error_of_one_line_that_names_it(tmp_path, function, num_dims, message):
    dims = [] if num_dims is None else ["--flow.num_dims", str(num_dims)]
    arguments = ["--output", str(tmp_path / "run"), "--target.function", f"test_infer:{function}", *dims, *FEW]
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
    with pytest.raises(ValueError, match=r"u2: not the target that the run in .* was begun with"):
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
