"""The benchmark: calls that take turns, arithmetic as counted by hand, and a rival that is the same model."""

import gzip
import json
import sys

import pytest
import torch
from conftest import perturb, random_inputs, tiny_config, tiny_glow
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from glow.benchmarking import limits as limits_module
from glow.benchmarking.kinds import kinds_of_call, measurement
from glow.benchmarking.limits import Limits, Work
from glow.benchmarking.peers import NormflowsGlow, compare_sizes, count_macs
from glow.benchmarking.report import HEAD, put_row
from glow.benchmarking.timing import WARM_UP_CALLS, Spread, alternate, rate, ratio
from glow.config import BenchmarkRun, ModelConfig, TrainConfig
from glow.cost.tracing import LiveBytes
from glow.models.glow import Glow
from glow.planning.memory import in_mode, process_memory
from pipelines import benchmark

CPU = torch.device("cpu")
MODEL = ModelConfig(
    image_shape=(3, 8, 12), num_levels=1, num_steps_per_level=2, hidden_channels=5, network_actnorm=False
)
OPTIONS = ["--model.image_shape", "[3, 8, 8]", "--model.num_levels", "2", "--model.num_steps_per_level", "2"]
OPTIONS += ["--data.path", "nowhere"]
OPTIONS += ["--model.hidden_channels", "64", "--train.batch_size", "4", "--repeats", "2", "--seconds", "0"]


@pytest.fixture
def normflows():
    return pytest.importorskip("normflows", reason="normflows is not installed: pip install '.[bench]'")


def test_calls_take_turns_after_a_warm_up():
    made, rounds = [], []
    calls = {name: lambda name=name: made.append(name) for name in "ab"}
    times = alternate(calls, 3, 0, CPU, lambda: rounds.append(len(made)))
    assert made == ["a", "b"] * (WARM_UP_CALLS + 3)
    assert rounds == [2 * (WARM_UP_CALLS + count) for count in (1, 2, 3)]
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_calls_go_on_until_the_time_is_over():
    assert len(alternate({"a": lambda: None}, 1, 0.02, CPU)["a"]) > 10


def test_median_quartiles_rates_and_ratios():
    assert Spread.of([5, 1, 2, 3, 4]) == Spread(3, 2, 4, 5)
    assert rate([0.5, 0.25, 1], 2) == Spread(4, 3, 6, 3)
    # Of the calls of one round: a machine that becomes slow for all does not change them.
    assert ratio([2, 20, 200], [1, 10, 100]) == Spread(2, 2, 2, 3)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    monkeypatch.setattr(limits_module, "MATRIX_SIZES", {"cpu": (128, 256)})
    monkeypatch.setattr(limits_module, "COPIED_BYTES", {"cpu": 2**20})


def test_limits_are_the_highest_rates_that_were_seen(monkeypatch):
    seconds = [*[0.4, 0.1, 0.3, 0.2], *[0.5, 0.6, 0.5, 0.9], *[0.5, 0.4, 0.6, 0.7]]
    # The machine is busier, so that one more size would take too long; but copies are faster, once.
    seconds += [*[0.4, 0.3, 0.4, 0.4], *[0.9, 0.1, 0.9, 0.9]]
    seconds += [*[0.4, 0.3, 0.4, 0.4], *[0.9, 0.9, 0.9, 0.9]]
    left = iter(seconds)
    monkeypatch.setattr(limits_module, "duration", lambda call, device: (call(), next(left))[1])
    limits = Limits(CPU, torch.float32)
    limits.measure()
    assert (limits.flops_per_s, limits.bytes_per_s) == (2 * 256**3 / 0.5, 2 * 2**20 / 0.4)
    limits.measure()
    limits.measure()
    assert (limits.flops_per_s, limits.bytes_per_s) == (2 * 256**3 / 0.5, 2 * 2**20 / 0.1)
    assert not list(left)
    assert limits.least_seconds(Work(4 * limits.flops_per_s, 2 * limits.bytes_per_s)) == 4
    assert limits.least_seconds(Work(4 * limits.flops_per_s, 8 * limits.bytes_per_s)) == 8


@pytest.mark.parametrize(("memory", "passes"), [("stored", 3), ("checkpoint", 4)])
def test_arithmetic_is_that_of_the_configuration_counted_by_hand(memory, passes):
    run = BenchmarkRun(model=MODEL, train=TrainConfig(batch_size=7), memory=memory)
    pixels, channels = 4 * 6, 12
    network = 9 * (channels // 2) * 5 + 5 * 5 + 9 * 5 * channels
    flops = 2 * 2 * pixels * (channels**2 + network)
    kinds = {kind.name: (kind.num_images, kind.work.flops) for kind in kinds_of_call(run)}
    assert kinds == {
        "training": (7, 7 * passes * flops),
        "log_prob": (7, 7 * flops),
        "sampling 64": (64, 64 * flops),
        "sampling 1": (1, flops),
    }
    assert count_macs(initialized(Glow(MODEL), MODEL), MODEL.image_shape) == flops / 2


def test_memory_that_a_step_goes_through_is_that_of_all_microbatches():
    def num_bytes(batch_size, microbatch_size=None):
        train = TrainConfig(batch_size=batch_size, microbatch_size=microbatch_size)
        return kinds_of_call(BenchmarkRun(model=MODEL, train=train))[0].work.num_bytes

    num_parameters = sum(parameter.numel() for parameter in Glow(MODEL).parameters())
    for_weights = 2 * num_bytes(8) - num_bytes(16)
    # Weights, gradients, two moments and averages, each written and read; and what depends on the weights alone.
    assert 1 < for_weights / (2 * 4 * 5 * num_parameters) < 1.5
    assert num_bytes(8) <= num_bytes(8, 4) <= num_bytes(8) + for_weights
    assert num_bytes(12, 4) - num_bytes(8, 4) == num_bytes(8, 4) - num_bytes(4) > 0


def test_fraction_of_the_limit_is_that_of_the_median():
    kind = kinds_of_call(BenchmarkRun(model=MODEL))[0]
    limits = Limits(CPU, torch.float32)
    limits.flops_per_s, limits.bytes_per_s = kind.work.flops, 1e20
    result = measurement(kind, {"ours": [4, 2, 8], "other": [8, 2, 4]}, limits)
    assert result.fraction_of_limit == 1 / 4
    assert result.ratios == {"other": Spread(1, 0.75, 1.5, 3)}
    assert result.rivals["other"].median == 64 / 4


def initialized(model, config):
    inputs = random_inputs(config, 4, next(model.parameters()).dtype)
    with torch.no_grad():
        model.initialize(*inputs) if isinstance(model, Glow) else model(*inputs)
    return model


def copy_weights(ours, theirs):
    """Give normflows' model the weights of ours, but for what it lacks: the scale of last convolutions, which is 1."""
    state = {}
    for depth, level in enumerate(reversed(ours.levels)):
        # Its blocks stand in the order of sampling.
        units = reversed([ours.chain[index].bijector.bijectors for index in list(level)[1:-1]])
        for number, (actnorm, conv, coupling) in enumerate(units):
            name = f"glow.flows.{depth}.{number}.flows"
            net = coupling.net
            # Shifts and scales of the channels in turn, not one after the other.
            order = torch.arange(len(net.conv3.bias)).view(2, -1).T.flatten()
            layers = {0: (net.conv1.weight, net.conv1.bias), 2: (net.conv2.weight, net.conv2.bias)}
            sign = torch.tensor([-1.0, 1.0]).repeat_interleave(len(order) // 2)[order]  # it subtracts the shift
            layers[4] = (sign[:, None, None, None] * net.conv3.weight[order], sign * net.conv3.bias[order])
            for layer, (weight, bias) in layers.items():
                state |= {f"{name}.0.flows.1.param_map.net.{layer}.weight": weight}
                state |= {f"{name}.0.flows.1.param_map.net.{layer}.bias": bias}
            state |= {f"{name}.1.P": conv.permutation, f"{name}.1.L": conv.lower, f"{name}.1.U": conv.upper}
            state |= {f"{name}.1.sign_S": conv.sign, f"{name}.1.log_S": conv.log_s}
            state |= {
                f"{name}.2.s": -actnorm.log_scale.view(1, -1, 1, 1),
                f"{name}.2.t": -actnorm.bias.view(1, -1, 1, 1),
            }
    top = ours.chain[-1].bijector
    state |= {"glow.q0.0.loc": top.mean.view(1, -1, 1, 1), "glow.q0.0.log_scale": top.log_scale.view(1, -1, 1, 1)}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    fixed = ("data_dep_init_done", "eye", "loc_logs", "log_scale_logs")
    assert all(name.endswith(fixed) or name.startswith(("glow.q0.1", "glow.q0.2")) for name in missing)


def test_rival_is_the_same_density(normflows):
    config = tiny_config(network_actnorm=False, split_prior="standard", num_levels=3)
    ours, theirs = (initialized(kind(config).double(), config) for kind in (Glow, NormflowsGlow))
    perturb(ours, 0.05)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.endswith("conv3.log_scale"):
                parameter.zero_()
    copy_weights(ours, theirs)
    inputs = random_inputs(config, 5, seed=1)
    assert torch.allclose(theirs(*inputs), ours(*inputs), rtol=1e-9)
    assert theirs.sample(3, 0.7).shape == (3, 3, 8, 8)
    assert theirs.sample(3, 0.7).dtype == torch.uint8


@pytest.mark.parametrize(("steps", "width"), [(8, 128), (2, 512)])
def test_rival_has_as_many_parameters_and_operations(normflows, steps, width):
    config = ModelConfig(
        image_shape=(3, 32, 32), num_steps_per_level=steps, hidden_channels=width, network_actnorm=False
    )
    models = [initialized(kind(config), config) for kind in (Glow, NormflowsGlow)]
    sizes = compare_sizes(*models, config.image_shape)
    for quantity in ("num_parameters", "num_macs"):
        assert sizes[quantity]["normflows"] == pytest.approx(sizes[quantity]["ours"], rel=0.02)


def test_rival_of_another_size_is_refused(normflows):
    config = tiny_config(network_actnorm=False)
    models = [initialized(kind(config), config) for kind in (Glow, NormflowsGlow)]
    with pytest.raises(ValueError, match=r"its nearest model has -\d+\.\d% num_parameters .* at most 2% is"):
        compare_sizes(*models, config.image_shape)


def test_ours_takes_less_memory_than_its_rival(normflows):
    config = ModelConfig(image_shape=(3, 32, 32), num_steps_per_level=4, hidden_channels=128, network_actnorm=False)
    peaks = []
    for kind in (Glow, NormflowsGlow):
        model = initialized(kind(config), config)
        inputs = random_inputs(config, 8, torch.float32)
        with LiveBytes([*model.parameters(), *model.buffers()]) as live:
            model(*inputs).sum().backward()
        peaks.append(live.peak_bytes)
    ours, theirs = peaks
    assert ours < 0.85 * theirs


def test_arithmetic_of_a_step_is_in_products_of_matrices():
    # They are as fast as the device can be, convolutions are not; those of the priors alone remain.
    config = ModelConfig(image_shape=(3, 32, 32), num_steps_per_level=2, hidden_channels=64)
    model = initialized(Glow(config), config)
    with FlopCounterMode(display=False) as counter:
        model(*random_inputs(config, 2, torch.float32)).sum().backward()
    flops = counter.get_flop_counts()["Global"]
    products = flops[torch.ops.aten.mm] + flops[torch.ops.aten.addmm]
    assert products > 0.95 * sum(flops.values())


class Operations(TorchDispatchMode):
    """Lists what torch does."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_decoding_again_computes_nothing_of_parameters_alone():
    model = tiny_glow(torch.float32, num_levels=1, num_steps_per_level=3)
    noise = torch.randn(1, model.num_dims)
    counts = []
    for _ in range(2):
        with torch.no_grad(), Operations() as operations:
            model.sample(noise, 1.0)
        counts.append(len(operations.names))
    assert not any(name.startswith("aten.linalg") for name in operations.names)
    first, again = counts
    assert again < 0.6 * first


def test_reversible_takes_a_fifth_of_the_memory_of_stored_at_32_steps():
    model = ModelConfig(image_shape=(3, 32, 32), hidden_channels=64)
    run = BenchmarkRun(model=model, train=TrainConfig(batch_size=32))
    sizes = {memory: process_memory(in_mode(run, memory), 1, 32)[0].total_bytes for memory in ("stored", "reversible")}
    assert sizes["reversible"] <= sizes["stored"] / 5


def read_results(output):
    return json.loads((output / "benchmark.json").read_text())


def test_everything_is_measured_and_written(dataset, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- performance -->\n<!-- -->\nafter\n<!-- other -->\n<!-- -->\n")
    options = [*OPTIONS, "--data.path", str(dataset), "--output", str(tmp_path / "run"), "--readme", str(readme)]
    output = benchmark.main([*options, "--profile", "true", "--train.mixed_precision", "bf16"])
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == str(output) == str(tmp_path / "run" / "benchmark")
    results = read_results(output)
    names = ["training", "log_prob", "sampling 64", "sampling 1", "reading"]
    assert [each["name"] for each in results["measurements"]] == names
    for each in results["measurements"]:
        assert each["images_per_s"]["count"] == 2
        assert 0 < each["images_per_s"]["low"] <= each["images_per_s"]["median"] <= each["images_per_s"]["high"]
        assert each["name"] == "reading" or each["fraction_of_limit"] > 0
        assert each["name"] in text
    assert results["limits"]["dtype"] == "torch.bfloat16"
    assert min(results["limits"]["flops_per_s"], results["limits"]["bytes_per_s"]) > 1e8
    assert (
        results["memory"]["ours"]["peak_bytes"]
        > results["memory"]["ours"]["held_bytes"]
        > 16 * results["num_parameters"]
    )
    assert results["precision"]["bf16"] == pytest.approx(results["precision"]["float32"], abs=0.05)
    assert results["precision"]["bf16"] != results["precision"]["float32"]
    assert {"cpu", "num_threads", "load_average", "versions", "commit"} <= set(results["environment"])
    for name in ("training", "sampling-64", "sampling-1"):
        events = json.loads(gzip.decompress((output / f"{name}.pt.trace.json.gz").read_bytes()))["traceEvents"]
        assert sum(event["name"] == "aten::mm" for event in events) >= 3 * 2 * 2
    row = (output / "row.md").read_text()
    assert readme.read_text().startswith("before\n<!-- performance -->\n| model")
    assert readme.read_text().endswith(f"|\n{row}<!-- -->\nafter\n<!-- other -->\n<!-- -->\n")


def test_memory_modes_take_turns_at_training(tmp_path, capsys):
    options = [*OPTIONS, "--model.num_steps_per_level", "8", "--output", str(tmp_path), "--memory", "reversible"]
    results = read_results(benchmark.main([*options, "--train.batch_size", "16", "--against", "stored"]))
    assert "random images, and no reading of data" in capsys.readouterr().out
    training, *others = results["measurements"]
    assert training["ratios"]["stored"]["median"] < 1
    assert [each["ratios"] for each in others] == 3 * [{}]
    reversible, stored = results["memory"]["ours"], results["memory"]["stored"]
    assert reversible["held_bytes"] == stored["held_bytes"]
    assert reversible["peak_bytes"] < stored["peak_bytes"]


def test_normflows_takes_turns_at_everything(normflows, tmp_path, capsys):
    options = [*OPTIONS, "--model.split_prior", "standard", "--output", str(tmp_path), "--against", "normflows"]
    results = read_results(benchmark.main(options))
    assert "model.network_actnorm is false in both" in capsys.readouterr().out
    assert not results["config"]["model"]["network_actnorm"]
    assert [list(each["ratios"]) for each in results["measurements"]] == 4 * [["normflows"]]
    assert results["against"]["differences"]
    assert set(results["memory"]) == {"ours", "normflows"}


def test_under_mixed_precision_normflows_takes_part_with_autocast_too(normflows, tmp_path):
    options = [*OPTIONS, "--model.split_prior", "standard", "--output", str(tmp_path), "--against", "normflows"]
    results = read_results(benchmark.main([*options, "--train.mixed_precision", "bf16"]))
    assert list(results["measurements"][0]["ratios"]) == ["normflows", "normflows, autocast"]


def test_line_takes_the_place_of_an_earlier_one_of_the_same_model_and_device(tmp_path):
    path = tmp_path / "x.md"
    path.write_text("<!-- performance -->\nhead\n---\n| a | cpu | 1 |\n| b | cpu | 2 |\n<!-- -->\n")
    put_row(path, "| a | gpu | 3 |")
    put_row(path, "| a | cpu | 4 |")
    lines = path.read_text().splitlines()
    assert lines[1] == f"| {' | '.join(HEAD)} |"
    assert lines[3:] == ["| b | cpu | 2 |", "| a | gpu | 3 |", "| a | cpu | 4 |", "<!-- -->"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "repeats: 0 is not allowed; give 1 or more"),
        (["--seconds", "-1"], "seconds: -1.0 is not allowed; give 0 or more"),
        (["--against", "stored"], "against: 'stored' is not allowed; choose another mode"),
        (
            ["--parallel.mode", "fsdp"],
            "parallel.mode: 'fsdp' is not allowed; leave it out: benchmark measures one process",
        ),
        (["--vectors.name", "moons"], "vectors.name: 'moons' is not allowed; leave it out: benchmark measures a Glow"),
        (["--data.path", "nowhere"], "model.image_shape: give it, or the data.path of a prepared data set .nowhere"),
        ([*OPTIONS, "--readme", "LICENSE"], "readme: LICENSE has no lines <!-- performance --> and <!-- -->"),
        (
            [*OPTIONS, "--against", "normflows", "--model.coupling", "mixture"],
            "model.coupling: 'mixture', but against normflows only affine, additive can be compared",
        ),
    ],
)
def test_mistakes_are_errors_of_one_line(arguments, message, tmp_path):
    if "normflows" in arguments:
        pytest.importorskip("normflows")
    with pytest.raises(ValueError, match=message) as error:
        benchmark.main(["--output", str(tmp_path), *arguments])
    assert "\n" not in str(error.value)


def test_without_normflows_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "normflows", None)
    with pytest.raises(ValueError, match=r"normflows is not installed: pip install 'glow-flows\[bench\]'"):
        benchmark.main([*OPTIONS, "--output", str(tmp_path), "--against", "normflows"])


def test_several_processes_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="benchmark runs as one process"):
        benchmark.main([*OPTIONS, "--output", str(tmp_path)])
