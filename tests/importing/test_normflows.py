"""Models of normflows give the log-probability and images that an independent reading of them gives."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from glow.importing.normflows import from_normflows
from glow.models.glow import Glow, standard_normal_log_prob
from glow.models.images import log_volume
from glow.training.checkpoints.models import load_model
from pipelines import evaluate, import_checkpoint, sample

LEVELS, STEPS, WIDTH, CLASSES, SIZE = 3, 2, 6, 4, 16


def make_state(affine=True, lu=True, base="class pixel", net_actnorm=False, dtype=torch.float64, size=SIZE):
    """A state dict with the names and shapes of that program, with random numbers nowhere special."""
    rng = torch.Generator().manual_seed(0)

    def random(*shape, scale=0.05):
        return (scale * torch.randn(*shape, generator=rng, dtype=torch.float64)).to(dtype)

    def actnorm(name, channels):
        state = {f"{name}.{part}": random(1, channels, 1, 1) for part in "st"}
        return state | {f"{name}.data_dep_init_done": torch.tensor(1.0)}

    def base_density(name, c, side):
        names = ("loc", "log_scale")
        match base:
            case "pixel":
                return {f"{name}.{part}": random(1, c, side, side) for part in names}
            case "class pixel":
                return {f"{name}.{part}": random(c, side, side, CLASSES) for part in names}
        state = {f"{name}.{part}{logs}": random(1, c, 1, 1) for part in names for logs in ("", "_logs")}
        return state | ({f"{name}.{part}_cc": random(CLASSES, c) for part in names} if base == "class channel" else {})

    state = {}
    for level in range(LEVELS):  # 0 is the last one, with the most channels
        channels = 3 * 2 ** (LEVELS + 1 - level)
        state |= base_density(f"q0.{level}", channels // (2 if level else 1), size >> (LEVELS - level))
        for step in range(STEPS):
            block = f"flows.{level}.{step}.flows"
            net, number = f"{block}.0.flows.1.param_map.net", 0
            out = channels if affine else channels // 2
            for inputs, outputs, kernel in ((channels // 2, WIDTH, 3), (WIDTH, WIDTH, 1), (WIDTH, out, 3)):
                state[f"{net}.{number}.weight"] = random(outputs, inputs, kernel, kernel, scale=0.2)
                if net_actnorm and outputs is WIDTH and number < 6:
                    state |= actnorm(f"{net}.{number + 1}.actNorm", outputs)
                    number += 3
                else:
                    state[f"{net}.{number}.bias"] = random(outputs)
                    number += 2
            if lu:
                order = torch.randperm(channels, generator=rng)
                state[f"{block}.1.P"] = torch.eye(channels, dtype=dtype)[order]
                state |= {f"{block}.1.{part}": random(channels, channels) for part in "LU"}
                state |= {f"{block}.1.log_S": random(channels), f"{block}.1.sign_S": random(channels).sign()}
                state[f"{block}.1.eye"] = torch.eye(channels, dtype=dtype)
            else:
                rotation = torch.linalg.qr(random(channels, channels, scale=1).double()).Q.to(dtype)
                state[f"{block}.1.W"] = rotation + random(channels, channels)
            state |= actnorm(f"{block}.2", channels)
    return state


class Reference:
    """That program's model, read off its state dict, without any of our code: from images to latents."""

    def __init__(self, state, scale="sigmoid"):
        self.state, self.scale = state, scale

    def net(self, name, x):
        number = 0
        while f"{name}.{number}.weight" in self.state:
            weight = self.state[f"{name}.{number}.weight"]
            x = F.conv2d(x, weight, self.state.get(f"{name}.{number}.bias"), padding=weight.shape[2] // 2)
            number += 1
            if f"{name}.{number}.actNorm.s" in self.state:
                norm = f"{name}.{number}.actNorm"
                x = x * self.state[f"{norm}.s"].exp() + self.state[f"{norm}.t"]
                number += 1
            if f"{name}.{number + 1}.weight" in self.state:
                x = x.clamp(min=0)
            number += 1
        return x

    def matrix(self, name):
        if f"{name}.W" in self.state:
            return self.state[f"{name}.W"]
        p, lower, upper, log_s, sign = (self.state[f"{name}.{part}"] for part in ("P", "L", "U", "log_S", "sign_S"))
        return p @ (lower.tril(-1) + torch.eye(len(p))) @ (upper.triu(1) + torch.diag(sign * log_s.exp()))

    def block(self, name, x):
        area = x.shape[2] * x.shape[3]
        x = (x - self.state[f"{name}.2.t"]) * (-self.state[f"{name}.2.s"]).exp()
        w = self.matrix(f"{name}.1")
        x = torch.einsum("ij,njhw->nihw", w, x)
        logdet = area * (torch.linalg.slogdet(w).logabsdet - self.state[f"{name}.2.s"].sum())
        a, b = x.tensor_split(2, dim=1)
        out = self.net(f"{name}.0.flows.1.param_map.net", a)
        if out.shape[1] == a.shape[1]:
            return torch.cat([a, b - out], 1), logdet
        h = out[:, 1::2]
        factor = torch.exp(-h) if self.scale == "exp" else 1 / (1 + torch.exp(-(h + 2)))
        return torch.cat([a, (b - out[:, 0::2]) * factor], 1), logdet + factor.log().flatten(1).sum(1)

    def base(self, name, labels):
        parts = []
        for part in ("loc", "log_scale"):
            value = self.state[f"{name}.{part}"]
            if f"{name}.{part}_logs" in self.state:
                value = value * (3 * self.state[f"{name}.{part}_logs"]).exp()
                if f"{name}.{part}_cc" in self.state:
                    value = value + self.state[f"{name}.{part}_cc"][labels][:, :, None, None]
            elif len(value) > 1:
                value = value[..., labels].permute(3, 0, 1, 2)
            parts.append(value)
        return parts

    def log_prob_and_latents(self, x, labels=None):
        total, latents = 0, []
        for level in reversed(range(LEVELS)):
            n, c, h, w = x.shape
            x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
            for step in reversed(range(STEPS)):
                x, logdet = self.block(f"flows.{level}.{step}.flows", x)
                total = total + logdet
            x, out = x.tensor_split(2, dim=1) if level else (None, x)
            mean, log_sd = (value.expand_as(out) for value in self.base(f"q0.{level}", labels))
            eps = (out - mean) / log_sd.exp()
            latents.append(eps)
            total = total - (0.5 * eps**2 + log_sd + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)
        return total, latents


def images_of(size=SIZE):
    rng = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (CLASSES, 3, size, size), dtype=torch.uint8, generator=rng)
    return images, torch.rand(images.shape, dtype=torch.float64, generator=rng)


@pytest.mark.parametrize(
    ("parts", "given"),
    [
        ({}, {}),
        ({"lu": False, "base": "pixel", "net_actnorm": True}, {"scale": "exp", "num_bits": 5}),
        ({"affine": False, "base": "class channel"}, {"image_size": SIZE, "image_range": (-0.5, 0.5)}),
        ({"base": "channel"}, {"image_size": SIZE}),
    ],
)
def test_imported_model_gives_the_same_log_prob_and_images(parts, given):
    state = make_state(**parts)
    config, tensors = from_normflows(state, **given)
    model = Glow(config).double()
    model.load_state_dict(tensors)
    images, noise = images_of()
    bits, (low, high) = given.get("num_bits", 8), given.get("image_range", (0.0, 1.0))
    ours = ((images >> (8 - bits)) + noise) / 2**bits - 0.5
    labels = torch.arange(CLASSES) if model.num_classes else None
    expected, latents = Reference(state, given.get("scale")).log_prob_and_latents(ours + (low + high) / 2, labels)
    found = model(images, noise, labels) - log_volume(ours[0].numel(), bits)
    assert torch.allclose(found, expected, rtol=1e-9, atol=0)
    encoded, _ = model.encode(ours, labels)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(encoded, latents, strict=True))
    assert (model.decode(latents, labels) - ours).abs().max() < 1e-9


@pytest.mark.filterwarnings("ignore:torch.lu is deprecated")  # normflows 1.7.3
def test_the_program_itself_gives_the_same_log_prob():
    nf = pytest.importorskip("normflows", reason="normflows is not installed: pip install '.[bench]'")
    torch.manual_seed(0)
    levels = range(LEVELS)
    channels = [3 * 2 ** (LEVELS + 1 - level) for level in levels]
    shapes = [(c // (2 if i else 1), *2 * [SIZE >> (LEVELS - i)]) for i, c in enumerate(channels)]
    theirs = nf.MultiscaleFlow(
        [nf.distributions.ClassCondDiagGaussian(shape, CLASSES) for shape in shapes],
        [[*(nf.flows.GlowBlock(c, WIDTH) for _ in range(STEPS)), nf.flows.Squeeze()] for c in channels],
        [nf.flows.Merge() for _ in levels[1:]],
    ).double()
    for parameter in theirs.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for name, flag in theirs.named_buffers():
        if name.endswith("data_dep_init_done"):
            flag.fill_(1)
    config, tensors = from_normflows(theirs.state_dict())
    model = Glow(config).double()
    model.load_state_dict(tensors)
    x, labels = torch.rand(CLASSES, 3, SIZE, SIZE, dtype=torch.float64), torch.arange(CLASSES)
    with torch.no_grad():
        latents, logdet = model.encode(x - 0.5, labels)
        found = logdet + sum(standard_normal_log_prob(latent) for latent in latents)
        assert torch.allclose(found, theirs.log_prob(x, labels), rtol=1e-9, atol=0)


def test_stage_writes_a_checkpoint_that_the_others_take(dataset, tmp_path):
    state = make_state(base="pixel", dtype=torch.float32, size=8)
    torch.save(state, tmp_path / "model.pt")
    run = tmp_path / "run"
    arguments = ["--format", "normflows", str(tmp_path / "model.pt"), "--scale", "exp", "--output", str(run)]
    model = load_model(import_checkpoint.main(arguments))
    images, noise = images_of(8)
    double = {name: tensor.double() for name, tensor in state.items()}
    expected, _ = Reference(double, "exp").log_prob_and_latents((images + noise) / 256)
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
        ("q0.1.log_scale", WITHOUT, r"not a state dict of normflows's Glow: it has no q0\.1\.log_scale"),
        ("q0.1.loc", torch.zeros(6, 4, 4, CLASSES), r"needs \[12, 4, 4\]|expand"),
        ("q0.0.loc", torch.zeros(3), "not a state dict of normflows's Glow: "),
        ("q0.0.loc_logs", torch.zeros(1), "image_size is not set"),
        ("flows.1.1.flows.2.s", WITHOUT, r"it has no flows\.1\.1\.flows\.2\.s"),
        ("flows.1.0.flows.2.data_dep_init_done", torch.tensor(0.0), r"never trained: flows\.1\.0\.flows\.2\.data"),
        ("flows.1.0.flows.1.log_S", torch.full((24,), math.nan), r"log_s is not finite"),
        ("flows.2.0.flows.0.flows.1.param_map.net.0.weight", torch.zeros(WIDTH, 12, 3, 3), "checkerboard"),
        ("flows.99.9999.flows.2.s", torch.zeros(1), r"it has no flows\.0\.2"),
    ],
)
def test_broken_models_are_refused(name, value, message):
    state = {key: tensor for key, tensor in (make_state() | {name: value}).items() if tensor is not WITHOUT}
    with pytest.raises(ValueError, match=message) as error:
        from_normflows(state)
    assert "\n" not in str(error.value)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="image_size: 12 is not allowed; give a multiple of 2"):
        from_normflows(make_state(base="channel"), image_size=12)
    with pytest.raises(ValueError, match="image_size: 8 is not allowed; the file holds a model of 16 x 16"):
        from_normflows(make_state(), image_size=8)
    with pytest.raises(ValueError, match="scale: 'exp' is not allowed; leave it out, or set format to normflows"):
        import_checkpoint.main(["--scale", "exp", "x.pt"])
    with pytest.raises(ValueError, match=r"not a state dict of normflows's Glow: it has no flows\.0\.0"):
        from_normflows({"weight": torch.zeros(3)})
