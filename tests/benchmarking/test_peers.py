"""The rival of normflows: the same density, with as many parameters and operations."""

import pytest
import torch
from conftest import perturb, random_inputs, tiny_config

from glow.benchmarking.peers import NormflowsGlow, compare_sizes
from glow.config import ModelConfig
from glow.cost.tracing import LiveBytes
from glow.models.glow import Glow


@pytest.fixture
def normflows():
    return pytest.importorskip("normflows", reason="normflows is not installed: pip install '.[bench]'")


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
    with pytest.raises(ValueError, match=r"its model has -\d+\.\d% num_parameters .* differ by at most 2%"):
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
