"""Models of kamenbliznashki give the log-probability and images that an independent reading of them gives."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from glow.importing.kamenbliznashki import from_kamenbliznashki
from glow.models.glow import Glow
from glow.models.images import log_volume
from glow.training.checkpoints.models import load_model
from pipelines import evaluate, import_checkpoint, sample

LEVELS, STEPS, WIDTH = 3, 2, 6


def make_state(lu=False, dtype=torch.float64):
    """A state dict with the names and shapes of that program, with random numbers nowhere special."""
    rng = torch.Generator().manual_seed(0)

    def random(*shape, scale=0.05):
        return (scale * torch.randn(*shape, generator=rng, dtype=torch.float64)).to(dtype)

    def actnorm(name, channels):
        signs = torch.tensor([1.0, 1.0, -1.0], dtype=dtype).repeat(channels)[:channels].view(1, -1, 1, 1)
        state = {f"{name}.scale": (1 + random(1, channels, 1, 1)) * signs, f"{name}.bias": random(1, channels, 1, 1)}
        return state | {f"{name}.initialized": torch.tensor(1, dtype=torch.uint8)}

    def gaussianize(name, channels):
        weight = random(2 * channels, channels, 3, 3)
        bias, log_scale = random(2 * channels), random(2 * channels, 1, 1)
        return {f"{name}.net.weight": weight, f"{name}.net.bias": bias, f"{name}.log_scale_factor": log_scale}

    state, channels = {"base_dist_mean": torch.zeros(1), "base_dist_var": torch.ones(1)}, 3
    for level in range(LEVELS):
        is_last, channels = level == LEVELS - 1, 4 * channels
        for step in range(STEPS):
            name = f"flowstep.{step}" if is_last else f"flowlevels.{level}.flowsteps.{step}"
            state |= actnorm(f"{name}.0", channels)
            if lu:
                state[f"{name}.1.p"] = torch.eye(channels, dtype=dtype)[torch.randperm(channels, generator=rng)]
                state |= {f"{name}.1.{part}": random(channels, channels) for part in "lu"}
                state |= {f"{name}.1.log_s": random(channels), f"{name}.1.sign_s": random(channels).sign()}
                state[f"{name}.1.l_mask"] = torch.ones(channels, channels, dtype=dtype).tril(-1)
            else:
                rotation = torch.linalg.qr(random(channels, channels, scale=1).double()).Q.to(dtype)
                state[f"{name}.1.w"] = rotation + random(channels, channels)
            state[f"{name}.2.conv1.weight"] = random(WIDTH, channels // 2, 3, 3, scale=0.3)
            state[f"{name}.2.conv2.weight"] = random(WIDTH, WIDTH, 1, 1, scale=0.3)
            state |= actnorm(f"{name}.2.actnorm1", WIDTH) | actnorm(f"{name}.2.actnorm2", WIDTH)
            state |= {f"{name}.2.conv3.weight": random(channels, WIDTH, 3, 3), f"{name}.2.conv3.bias": random(channels)}
            state[f"{name}.2.log_scale_factor"] = random(channels, 1, 1)
        channels //= 1 if is_last else 2
        state |= gaussianize("gaussianize" if is_last else f"flowlevels.{level}.split.gaussianize", channels)
    return state


class Reference:
    """That program's model, read off its state dict, without any of our code."""

    def __init__(self, state):
        self.state = state

    def actnorm(self, name, x):
        return (x - self.state[f"{name}.bias"]) / self.state[f"{name}.scale"]

    def matrix(self, name):
        if f"{name}.w" in self.state:
            return self.state[f"{name}.w"]
        p, lower, upper, mask, log_s, sign = (
            self.state[f"{name}.{part}"] for part in ("p", "l", "u", "l_mask", "log_s", "sign_s")
        )
        return p @ (lower * mask + torch.eye(len(p))) @ (upper * mask.T + torch.diag(sign * log_s.exp()))

    def net(self, name, x):
        h = self.actnorm(f"{name}.actnorm1", F.conv2d(x, self.state[f"{name}.conv1.weight"], padding=1)).clamp(min=0)
        h = F.conv2d(h, self.state[f"{name}.conv2.weight"], padding=1)  # two pixels larger
        h = self.actnorm(f"{name}.actnorm2", h).clamp(min=0)
        h = F.conv2d(h, self.state[f"{name}.conv3.weight"], self.state[f"{name}.conv3.bias"])
        return h * self.state[f"{name}.log_scale_factor"].exp()

    def step(self, name, x):
        area, w = x.shape[2] * x.shape[3], self.matrix(f"{name}.1")
        x = torch.einsum("ij,njhw->nihw", w, self.actnorm(f"{name}.0", x))
        logdet = area * (torch.linalg.slogdet(w).logabsdet - self.state[f"{name}.0.scale"].abs().log().sum())
        a, b = x.tensor_split(2, dim=1)
        out = self.net(f"{name}.2", b)
        gate = 1 / (1 + torch.exp(-(out[:, 1::2] + 2)))
        return torch.cat([gate * a + out[:, 0::2], b], 1), logdet + gate.log().flatten(1).sum(1)

    def log_prob_and_latents(self, x):
        x, total, latents = x - 0.5, 0, []
        for level in range(LEVELS):
            is_last = level == LEVELS - 1
            n, c, h, w = x.shape
            x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
            for step in range(STEPS):
                x, logdet = self.step(f"flowstep.{step}" if is_last else f"flowlevels.{level}.flowsteps.{step}", x)
                total = total + logdet
            given, out = (torch.zeros_like(x), x) if is_last else x.tensor_split(2, dim=1)
            name = "gaussianize" if is_last else f"flowlevels.{level}.split.gaussianize"
            weight, bias = self.state[f"{name}.net.weight"], self.state[f"{name}.net.bias"]
            h = F.conv2d(given, weight, bias, padding=1) * self.state[f"{name}.log_scale_factor"].exp()
            eps, x = (out - h[:, 0::2]) / h[:, 1::2].exp(), given
            latents.append(eps)
            total = total - (0.5 * eps**2 + h[:, 1::2] + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)
        return total, latents


def images_of(count=4):
    rng = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=rng)
    return images, torch.rand(images.shape, dtype=torch.float64, generator=rng)


@pytest.mark.parametrize("lu", [True, False])
def test_imported_model_gives_the_same_log_prob_and_images(lu):
    state = make_state(lu)
    config, tensors = from_kamenbliznashki({f"module.{name}": tensor for name, tensor in state.items()}, 8)
    model = Glow(config).double()
    model.load_state_dict(tensors)
    images, noise = images_of()
    x = (images // 8 + noise) / 32  # as that program scales 5-bit images
    expected, latents = Reference(state).log_prob_and_latents(x)
    assert torch.allclose(model(images, noise) - log_volume(192, 5), expected, rtol=1e-9, atol=0)
    found, _ = model.encode(x - 0.5)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(found, latents, strict=True))
    assert (model.decode(latents) - (x - 0.5)).abs().max() < 1e-9


def test_stage_writes_a_checkpoint_that_the_others_take(dataset, tmp_path):
    state = make_state(dtype=torch.float32)
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "global_step": 9, "state_dict": wrapped}, tmp_path / "checkpoint.pt")
    run = tmp_path / "run"
    arguments = ["--format", "kamenbliznashki", "--image_size", "8", "--num_bits", "8", "--output", str(run)]
    model = load_model(import_checkpoint.main([*arguments, str(tmp_path / "checkpoint.pt")]))
    images, noise = images_of()
    double = {name: tensor.double() for name, tensor in state.items()}
    expected, _ = Reference(double).log_prob_and_latents((images + noise) / 256)
    with torch.no_grad():
        found = model.double()(images, noise) - log_volume(192, 8)
    assert torch.allclose(found, expected, rtol=1e-5)
    evaluate.main(["--checkpoint", str(run), "--data", str(dataset), "--baselines", "false"])
    assert json.loads((run / "report/step-00000000-test/bpd.json").read_text())["valid"]
    sample.main(["--checkpoint", str(run), "--temperatures", "0", "--num_images", "4"])


WITHOUT = object()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gaussianize.net.bias", WITHOUT, r"not a state dict of kamenbliznashki's Glow: it has no gaussianize\.net"),
        ("flowlevels.1.flowsteps.1.0.bias", WITHOUT, r"it has no flowlevels\.1\.flowsteps\.1\.0\.bias"),
        ("flowlevels.1.flowsteps.1.0.initialized", torch.tensor(0), r"never trained: flowlevels\.1\.flowsteps\.1\.0"),
        ("flowstep.1.2.actnorm2.scale", torch.zeros(1, WIDTH, 1, 1), "is not finite"),
        ("flowstep.1.1.w", torch.zeros(3), "not a state dict of kamenbliznashki's Glow: "),
        ("flowstep.9999.x", torch.zeros(3), r"it has no flowlevels\.0\.flowsteps\.2"),
        ("flowlevels.99.x", torch.zeros(3), r"it has no flowlevels\.2\.flowsteps\.0\.0\.bias"),
    ],
)
def test_broken_models_are_refused(name, value, message):
    state = {key: tensor for key, tensor in (make_state() | {name: value}).items() if tensor is not WITHOUT}
    with pytest.raises(ValueError, match=message) as error:
        from_kamenbliznashki(state, 8)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"it has no flowstep\.0\.0\.bias"):
        from_kamenbliznashki({"weight": torch.zeros(3)})
