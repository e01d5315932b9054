"""Compiled flow steps: the same numbers, one graph for all steps of a level, and what they cannot go with."""

import json
import shutil
import sys
from functools import partial

import pytest
import torch
from conftest import random_inputs, tiny_glow
from torch._dynamo.utils import counters
from torch.library import opcheck
from training_runs import options
from variants import VARIANTS, gradients

from glow.execution import compiling
from glow.execution.precision import set_compute_dtype
from glow.networks import pixelwise, windows
from glow.parallel import build
from glow.training.metrics import read_metrics
from pipelines import benchmark, plan, train

# The compiler's own.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

OPTIONS = ["--model.image_shape", "[3, 8, 8]", "--model.num_levels", "2", "--model.num_steps_per_level", "2"]
OPTIONS += ["--data.path", "nowhere"]
OPTIONS += ["--model.hidden_channels", "64", "--train.batch_size", "4", "--repeats", "2", "--seconds", "0"]


@pytest.fixture(autouse=True)
def reset():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def traced(monkeypatch):
    """Graphs are taken, forwards and backwards, but not compiled."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setenv("CXX", sys.executable)  # none is needed


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "changes", [*(VARIANTS[index] for index in (0, 7, 8, 12, 13)), {"num_levels": 1, "image_shape": (3, 6, 2)}], ids=str
)
def test_gradients_are_those_of_uncompiled_steps(changes):
    model = tiny_glow(**changes).train()
    inputs = random_inputs(model.config, 4)
    expected_log_prob, expected = gradients(model, inputs)
    compiling.compile_steps(model)
    log_prob, actual = gradients(model, inputs)
    assert counters["stats"]["unique_graphs"] > 0
    assert torch.allclose(log_prob, expected_log_prob, rtol=1e-12)
    assert (actual - expected).norm() < 1e-10 * expected.norm()


@pytest.mark.usefixtures("traced")
def test_networks_in_half_precision_stay_so():
    model = tiny_glow(torch.float32).train()
    set_compute_dtype(model, torch.bfloat16)
    inputs = random_inputs(model.config, 4, torch.float32)
    _, expected = gradients(model, inputs)
    compiling.compile_steps(model)
    _, actual = gradients(model, inputs)
    set_compute_dtype(model, None)
    _, precise = gradients(tiny_glow(torch.float32).train(), inputs)
    assert 1e-4 * precise.norm() < (precise - expected).norm()
    assert (actual - expected).norm() < 0.5 * (precise - expected).norm()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_steps_of_a_level_share_a_graph_and_are_those_of_uncompiled_ones():
    model = tiny_glow(torch.float32, num_levels=1, num_steps_per_level=5).train()
    inputs = random_inputs(model.config, 4, torch.float32)
    expected_log_prob, expected = gradients(model, inputs)
    compiling.compile_steps(model)
    log_prob, actual = gradients(model, inputs)
    assert counters["stats"]["unique_graphs"] == 1
    assert (log_prob - expected_log_prob).abs().max() < 1e-5 * expected_log_prob.abs().max()
    assert (actual - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.usefixtures("traced")
def test_without_gradients_nothing_is_compiled():
    model = tiny_glow()
    compiling.compile_steps(model)
    with torch.no_grad():
        model(*random_inputs(model.config))
        model.sample(torch.randn(2, model.num_dims, dtype=torch.float64), 0.7)
    assert not counters


@pytest.mark.parametrize("num_kept", [0, 40])
def test_operators_are_what_they_are_said_to_be(monkeypatch, num_kept):
    monkeypatch.setattr(pixelwise, "BLOCK_BYTES", 8 * 8 * 7)
    rows, gradient, images = torch.randn(40, 5), torch.randn(40, 9), torch.randn(2, 4, 5, 3)
    w1, w2, w3 = torch.randn(8, 5), torch.randn(8, 8), torch.randn(9, 8)
    hidden1, hidden2 = torch.randn(2, 40, 8)
    checks = ("test_schema", "test_faketensor")
    opcheck(torch.ops.glow.windows, (images, 27 + num_kept), test_utils=checks)
    opcheck(torch.ops.glow.overlaps, (windows.windows(images, 27 + num_kept), 3), test_utils=checks)
    opcheck(torch.ops.glow.three_layers, (rows, w1, w1[:, 0], w2, w2[:, 0], w3, num_kept), test_utils=checks)
    arguments = (gradient, rows, hidden1, hidden2, w1, w2, w3)
    opcheck(torch.ops.glow.three_layers_backward, arguments, test_utils=checks)


@pytest.mark.usefixtures("traced")
def test_training_is_the_same_and_goes_on_without(dataset, tmp_path, reset_accelerate):
    common = ("--train.num_steps", "4", "--optimizer.name", "sgd", "--optimizer.lr", "1e-4")
    train.main(options(dataset, tmp_path / "plain", *common))
    for compiled, num_steps in (("true", "2"), ("false", "4")):
        reset_accelerate()
        train.main(options(dataset, tmp_path / "mixed", *common, "--compile", compiled, "--train.num_steps", num_steps))
        assert (counters["stats"]["unique_graphs"] > 0) == (compiled == "true")
        counters.clear()
    plain, mixed = (read_metrics(tmp_path / name)[-1]["train/bits_per_dim"] for name in ("plain", "mixed"))
    assert plain == pytest.approx(mixed, rel=1e-6)


def test_compiled_and_uncompiled_steps_take_turns_in_a_benchmark(tmp_path, monkeypatch):
    models = []
    monkeypatch.setattr(build, "compile_steps", models.append)
    output = benchmark.main([*OPTIONS, "--output", str(tmp_path), "--compile", "true", "--against", "stored"])
    training = json.loads((output / "benchmark.json").read_text())["measurements"][0]
    assert training["ratios"]["stored"]["count"] >= 2
    assert ", compiled |" in (output / "row.md").read_text()
    assert len(models) == 1


def test_configuration_that_compiles_can_be_planned(capsys):
    plan.main([*OPTIONS[:-4], "--compile", "true", "--train.batch_size", "4"])
    planned = capsys.readouterr().out
    assert all(f"ddp         {memory}" in planned for memory in ("stored", "checkpoint", "reversible"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--memory", "reversible"), "memory: .reversible. is not allowed; with compile give stored"),
        (("--parallel.mode", "fsdp"), "parallel.mode: .fsdp. is not allowed; with compile give ddp"),
        (("--vectors.name", "moons"), "compile: true is not allowed; leave it out: it is for a Glow of images"),
    ],
)
def test_what_it_cannot_go_with_is_an_error(more, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train.main(["--output", str(tmp_path), "--compile", "true", *more])


def test_without_a_compiler_the_error_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"no C\+\+ compiler \(no-such-compiler\)"):
        compiling.compile_steps(tiny_glow())


@pytest.mark.parametrize("name", ["", "no-such-compiler"])
def test_gpus_need_a_compiler_too(monkeypatch, name):
    monkeypatch.setenv("CC", name)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=rf"no C compiler \({name or 'gcc or clang or cc'}\): .* name it in CC"):
        compiling._check_compiler("cuda")


def test_failed_compilation_is_one_line(dataset, tmp_path, monkeypatch):
    def fail(graph, inputs):
        raise RuntimeError("no space left\nand a long story")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=fail))
    monkeypatch.setenv("CXX", sys.executable)
    with pytest.raises(
        ValueError, match=r"\Acompile: true, but the flow steps cannot be compiled here \(.*\); leave it out\Z"
    ):
        train.main(options(dataset, tmp_path, "--compile", "true"))
