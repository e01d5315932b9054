"""Cost of a model: arithmetic and memory of each unit as they are when it runs, and the best cut."""

import itertools
import random

import pytest
import torch
from conftest import kept_bytes, perturb, random_inputs, tiny_config

from glow.cli import parse_config
from glow.config import TrainRun
from glow.cost.units import UnitCost, cut, unit_costs
from glow.models.glow import Glow

MODES = [("stored", None), ("checkpoint", None), ("reversible", None), ("reversible", 2)]
CONFIGS = [
    {"num_steps_per_level": 3, "coupling": "additive"},
    {"coupling": "mixture", "network": "gated", "num_network_blocks": 1, "mask": "checkerboard", "num_levels": 1},
    {"dequantization": "variational", "dequantization_steps": 2, "class_conditional": True, "num_classes": 2},
]


def unit(num_macs, is_step=True):
    return UnitCost(0, 0, num_macs, 0, 0, 0, 0, 0, 0, 0, is_step)


def test_arithmetic_of_a_conv_network_is_what_counting_by_hand_gives():
    costs = unit_costs(tiny_config(image_shape=(3, 8, 12), num_levels=1, num_steps_per_level=2, hidden_channels=5))
    pixels, channels = 4 * 6, 12
    network = 9 * (channels // 2) * 5 + 5 * 5 + 9 * 5 * channels  # shift and scale of half of the channels
    assert [cost.num_macs for cost in costs] == [0, *2 * [pixels * (channels**2 + network)], 0]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_parameters_and_kept_bytes_are_those_of_the_model(changes, mode):
    config = tiny_config(**changes)
    costs = unit_costs(config, *mode)
    model = Glow(config)
    inputs = random_inputs(config, 4, torch.float32)
    model.initialize(*inputs)
    perturb(model, 0.01)
    model.set_memory(*mode)
    assert [cost.num_parameters for cost in costs[1:]] == [
        sum(parameter.numel() for parameter in unit.parameters()) for unit in model.chain[1:]
    ]
    assert sum(cost.num_parameters for cost in costs) == sum(parameter.numel() for parameter in model.parameters())
    # The batch is held beside what the model keeps.
    predicted = sum(4 * cost.kept_bytes + cost.kept_weight_bytes for cost in costs) - 4 * 5 * model.num_dims
    assert predicted == pytest.approx(kept_bytes(model, inputs), rel=0.02)


def test_first_level_of_celebahq256_has_two_thirds_of_the_arithmetic_and_a_twentieth_of_the_parameters():
    config = parse_config(TrainRun, ["--config", "configs/celebahq256.yaml"], "train").model
    costs = unit_costs(config)
    first = costs[: config.num_steps_per_level + 2]
    for name, share in (("num_macs", 0.69), ("num_parameters", 0.058)):
        part, whole = (sum(getattr(cost, name) for cost in some) for some in (first, costs))
        assert part / whole == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("seed", range(20))
def test_no_cut_has_less_arithmetic_in_its_largest_stage(seed):
    rng = random.Random(seed)
    costs = [unit(rng.randint(0, 20), is_step=rng.random() < 0.8) for _ in range(9)]
    costs[4] = unit(3)
    for num_stages in range(1, min(4, sum(cost.is_step for cost in costs)) + 1):
        cuts = []
        for inner in itertools.combinations(range(1, len(costs)), num_stages - 1):
            stages = [costs[a:b] for a, b in itertools.pairwise((0, *inner, len(costs)))]
            if all(any(cost.is_step for cost in stage) for stage in stages):
                cuts.append(max(sum(cost.num_macs for cost in stage) for stage in stages))
        stages = cut(costs, num_stages)
        assert [index for stage in stages for index in stage] == list(range(len(costs)))
        assert all(any(costs[index].is_step for index in stage) for stage in stages)
        assert max(sum(costs[index].num_macs for index in stage) for stage in stages) == min(cuts)


def test_more_stages_than_steps_are_an_error():
    with pytest.raises(ValueError, match="3 pipeline stages: the model has 2 flow steps; give 1 to 2"):
        cut([unit(0, is_step=False), unit(4), unit(4), unit(1, is_step=False)], 3)


def test_networks_of_a_gpu_hold_whole_hidden_layers():
    config = tiny_config(image_shape=(3, 64, 64), num_levels=1, hidden_channels=512)
    hidden = 4 * 32 * 32 * 512  # bytes of one hidden layer of an image
    cpu, gpu = (unit_costs(config, "reversible", device_type=device)[1] for device in ("cpu", "cuda"))
    half = unit_costs(config, "reversible", network_dtype=torch.bfloat16)[1]  # no blocks on a CPU either
    # Both layers and the gradients of both, of the pass that computes them again.
    assert gpu.working_bytes > 4 * hidden
    assert gpu.working_bytes - cpu.working_bytes > hidden
    assert gpu.working_bytes == pytest.approx(2 * half.working_bytes, rel=0.2)
    assert gpu.num_macs == cpu.num_macs
