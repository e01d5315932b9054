"""Calls that take turns, the limits of a device, and arithmetic as counted by hand."""

import pytest
import torch
from conftest import random_inputs, tiny_glow
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from glow.benchmarking import limits as limits_module
from glow.benchmarking.kinds import kinds_of_call, measurement
from glow.benchmarking.limits import Limits, Work
from glow.benchmarking.peers import count_macs
from glow.benchmarking.report import HEAD, put_row
from glow.benchmarking.timing import WARM_UP_CALLS, Spread, alternate, rate, ratio
from glow.config import BenchmarkRun, ModelConfig, TrainConfig
from glow.models.glow import Glow
from glow.planning.memory import in_mode, process_memory

CPU = torch.device("cpu")
MODEL = ModelConfig(
    image_shape=(3, 8, 12), num_levels=1, num_steps_per_level=2, hidden_channels=5, network_actnorm=False
)


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


def test_limits_are_the_highest_rates_that_were_seen(monkeypatch):
    monkeypatch.setattr(limits_module, "MATRIX_SIZES", {"cpu": (128, 256)})
    monkeypatch.setattr(limits_module, "COPIED_BYTES", {"cpu": 2**20})
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
    model = Glow(MODEL)
    model.initialize(*random_inputs(MODEL, 4, torch.float32))
    assert count_macs(model, MODEL.image_shape) == flops / 2


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


def test_reversible_takes_a_fifth_of_the_memory_of_stored_at_32_steps():
    model = ModelConfig(image_shape=(3, 32, 32), hidden_channels=64)
    run = BenchmarkRun(model=model, train=TrainConfig(batch_size=32))
    sizes = {memory: process_memory(in_mode(run, memory), 1, 32)[0].total_bytes for memory in ("stored", "reversible")}
    assert sizes["reversible"] <= sizes["stored"] / 5


def test_arithmetic_of_a_step_is_in_products_of_matrices():
    # They are as fast as the device can be, convolutions are not; those of the priors alone remain.
    config = ModelConfig(image_shape=(3, 32, 32), num_steps_per_level=2, hidden_channels=64)
    model = Glow(config)
    model.initialize(*random_inputs(config, 4, torch.float32))
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


def test_line_takes_the_place_of_an_earlier_one_of_the_same_model_and_device(tmp_path):
    path = tmp_path / "x.md"
    path.write_text("<!-- performance -->\nhead\n---\n| a | cpu | 1 |\n| b | cpu | 2 |\n<!-- -->\n")
    put_row(path, "| a | gpu | 3 |")
    put_row(path, "| a | cpu | 4 |")
    lines = path.read_text().splitlines()
    assert lines[1] == f"| {' | '.join(HEAD)} |"
    assert lines[3:] == ["| b | cpu | 2 |", "| a | gpu | 3 |", "| a | cpu | 4 |", "<!-- -->"]
