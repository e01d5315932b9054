"""Models of chaiyujin and y0ast give the log-probability and images that an independent reading of them gives."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from glow.importing.chaiyujin import from_chaiyujin, from_y0ast
from glow.models.glow import Glow
from glow.models.images import log_volume
from glow.training.checkpoints.models import load_model
from pipelines import evaluate, import_checkpoint, sample

LEVELS, STEPS, WIDTH, CLASSES = 2, 3, 6, 4
SIZE = (8, 12)
IMPORTERS = {"chaiyujin": from_chaiyujin, "y0ast": from_y0ast}
ENDS = {"chaiyujin": (-0.5 / 255, 255.5 / 255), "y0ast": (-0.5, 0.5)}
PARTS = {  # how each program names its parts
    "chaiyujin": {"net": "f", "conv": "", "lower": "l", "upper": "u", "top": "learn_top", "linear": ""},
    "y0ast": {
        "net": "block",
        "conv": ".conv",
        "lower": "lower",
        "upper": "upper",
        "top": "learn_top_fn",
        "linear": ".linear",
    },
}


def make_state(program, affine=True, lu=True, top=True, classes=False, dtype=torch.float64):
    """A state dict with the names and shapes of that program, with random numbers nowhere special."""
    rng, parts = torch.Generator().manual_seed(0), PARTS[program]

    def random(*shape, scale=0.05):
        return (scale * torch.randn(*shape, generator=rng, dtype=torch.float64)).to(dtype)

    def actnorm(name, channels):
        return {f"{name}.bias": random(1, channels, 1, 1), f"{name}.logs": random(1, channels, 1, 1)}

    def last_conv(name, inputs, outputs):
        name_of_conv = f"{name}{parts['conv']}"
        state = {f"{name_of_conv}.weight": random(outputs, inputs, 3, 3), f"{name_of_conv}.bias": random(outputs)}
        return state | {f"{name}.logs": random(outputs, 1, 1)}

    state, channels, place = {}, 3, 0
    for level in range(LEVELS):
        channels *= 4
        place += 1  # the squeeze
        for _ in range(STEPS):
            name = f"flow.layers.{place}"
            state |= actnorm(f"{name}.actnorm", channels)
            if lu:
                order = torch.randperm(channels, generator=rng)
                state[f"{name}.invconv.p"] = torch.eye(channels, dtype=dtype)[order]
                state[f"{name}.invconv.sign_s"] = random(channels).sign()
                for part in ("lower", "upper"):  # that program keeps numbers that it masks
                    state[f"{name}.invconv.{parts[part]}"] = random(channels, channels)
                state[f"{name}.invconv.log_s"] = random(channels)
            else:
                rotation = torch.linalg.qr(random(channels, channels, scale=1).double()).Q.to(dtype)
                state[f"{name}.invconv.weight"] = rotation + random(channels, channels)
            net = f"{name}.{parts['net']}"
            for number, (inputs, kernel) in ((0, (channels // 2, 3)), (2, (WIDTH, 1))):
                state[f"{net}.{number}{parts['conv']}.weight"] = random(WIDTH, inputs, kernel, kernel, scale=0.3)
                state |= actnorm(f"{net}.{number}.actnorm", WIDTH)
            state |= last_conv(f"{net}.4", WIDTH, channels if affine else channels // 2)
            place += 1
        if level < LEVELS - 1:
            state |= last_conv(f"flow.layers.{place}.conv", channels // 2, channels)
            channels //= 2
            place += 1
    if top:
        state |= last_conv(parts["top"], 2 * channels, 2 * channels)
    if classes:
        name = f"project_ycond{parts['linear']}"
        state |= {f"{name}.weight": random(2 * channels, CLASSES), f"{name}.bias": random(2 * channels)}
        state |= {"project_ycond.logs": random(2 * channels), "project_class.logs": random(CLASSES)}
    state["prior_h"] = torch.zeros(5, 2 * channels, *(side >> LEVELS for side in SIZE), dtype=dtype)
    return state


class Reference:
    """That program's model, read off its state dict, without any of our code."""

    def __init__(self, program, state):
        self.parts = PARTS[program]
        self.state = state

    def last_conv(self, name, x):
        conv = f"{name}{self.parts['conv']}"
        out = F.conv2d(x, self.state[f"{conv}.weight"], self.state[f"{conv}.bias"], padding=1)
        return out * (3 * self.state[f"{name}.logs"]).exp()

    def actnorm(self, name, x):
        return (x + self.state[f"{name}.bias"]) * self.state[f"{name}.logs"].exp()

    def net(self, name, x):
        for number, padding in ((0, 1), (2, 0)):
            x = F.conv2d(x, self.state[f"{name}.{number}{self.parts['conv']}.weight"], padding=padding)
            x = self.actnorm(f"{name}.{number}.actnorm", x).clamp(min=0)
        return self.last_conv(f"{name}.4", x)

    def matrix(self, name):
        if f"{name}.weight" in self.state:
            return self.state[f"{name}.weight"]
        p, lower, upper, log_s, sign = (
            self.state[f"{name}.{part}"] for part in ("p", self.parts["lower"], self.parts["upper"], "log_s", "sign_s")
        )
        mask = torch.ones_like(lower).tril(-1)
        return p @ (lower * mask + torch.eye(len(p))) @ (upper * mask.T + torch.diag(sign * log_s.exp()))

    def step(self, name, x):
        area = x.shape[2] * x.shape[3]
        logdet = area * self.state[f"{name}.actnorm.logs"].sum()
        w = self.matrix(f"{name}.invconv")
        x = torch.einsum("ij,njhw->nihw", w, self.actnorm(f"{name}.actnorm", x))
        logdet = logdet + area * torch.linalg.slogdet(w).logabsdet
        a, b = x.tensor_split(2, dim=1)
        out = self.net(f"{name}.{self.parts['net']}", a)
        if out.shape[1] == a.shape[1]:
            return torch.cat([a, b + out], 1), logdet
        gate = 1 / (1 + torch.exp(-(out[:, 1::2] + 2)))
        return torch.cat([a, (b + out[:, 0::2]) * gate], 1), logdet + gate.log().flatten(1).sum(1)

    def top(self, x, labels):
        out = torch.zeros(len(x), 2 * x.shape[1], *x.shape[2:], dtype=x.dtype)
        if f"{self.parts['top']}.logs" in self.state:
            out = self.last_conv(self.parts["top"], out)
        if "project_ycond.logs" in self.state:
            name = f"project_ycond{self.parts['linear']}"
            one_hot = torch.eye(CLASSES, dtype=x.dtype)[labels]
            out_of_class = one_hot @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]
            out = out + (out_of_class * (3 * self.state["project_ycond.logs"]).exp())[:, :, None, None]
        return out.tensor_split(2, dim=1)

    def log_prob_and_latents(self, x, labels=None):
        total, latents, place = 0, [], 0
        for level in range(LEVELS):
            n, c, h, w = x.shape
            x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
            for _ in range(STEPS):
                place += 1
                x, logdet = self.step(f"flow.layers.{place}", x)
                total = total + logdet
            if level < LEVELS - 1:
                place += 1
                x, out = x.tensor_split(2, dim=1)
                h = self.last_conv(f"flow.layers.{place}.conv", x)
                mean, log_sd = h[:, 0::2], h[:, 1::2]
                place += 1
            else:
                out, (mean, log_sd) = x, self.top(x, labels)
            eps = (out - mean) / log_sd.exp()
            latents.append(eps)
            total = total - (0.5 * eps**2 + log_sd + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)
        return total, latents


def images_of(count=4):
    rng = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=rng)
    return images, torch.rand(images.shape, dtype=torch.float64, generator=rng)


@pytest.mark.parametrize(
    ("program", "parts", "num_bits", "ends"),
    [
        ("chaiyujin", {"affine": True, "lu": False, "top": False}, None, None),
        ("chaiyujin", {"affine": False, "lu": True}, None, (0.0, 1.0)),
        ("y0ast", {"affine": True, "lu": True}, None, None),
        ("y0ast", {"affine": False, "lu": False, "top": False}, 5, None),
        ("y0ast", {"affine": True, "lu": True, "classes": True}, None, None),
        ("y0ast", {"affine": True, "lu": True, "classes": True, "top": False}, 3, (-1.0, 1.0)),
    ],
)
def test_imported_model_gives_the_same_log_prob_and_images(program, parts, num_bits, ends):
    state = make_state(program, **parts)
    given = {"num_bits": num_bits, "image_range": ends}
    config, tensors = IMPORTERS[program](state, **{name: value for name, value in given.items() if value})
    assert config.image_shape == (3, *SIZE)
    assert config.num_bits == (num_bits or 8)
    model = Glow(config).double()
    model.load_state_dict(tensors)
    images, noise = images_of()
    ours = ((images >> (8 - config.num_bits)) + noise) / 2**config.num_bits - 0.5
    low, high = ends or ENDS[program]
    x = low + (high - low) * (ours + 0.5)
    labels = torch.arange(len(images)) if parts.get("classes") else None
    expected, latents = Reference(program, state).log_prob_and_latents(x, labels)
    expected = expected + x[0].numel() * math.log(high - low)  # the density of ours, not of x
    volume = log_volume(x[0].numel(), config.num_bits)
    assert torch.allclose(model(images, noise, labels) - volume, expected, rtol=1e-9, atol=0)
    found, _ = model.encode(ours, labels)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(found, latents, strict=True))
    assert (model.decode(latents, labels) - ours).abs().max() < 1e-9


def test_levels_of_chaiyujin_lie_where_that_program_has_them():
    """Level k was k / 255 there; it is the middle of our cell of that level."""
    low, high = ENDS["chaiyujin"]
    k = torch.tensor([0.0, 100, 255], dtype=torch.float64)
    assert torch.allclose(low + (high - low) * (k + 0.5) / 256, k / 255)


@pytest.mark.parametrize(("program", "key"), [("chaiyujin", "graph"), ("y0ast", "model"), ("y0ast", None)])
def test_stage_writes_a_checkpoint_that_the_others_take(dataset, tmp_path, monkeypatch, program, key):
    monkeypatch.setattr(f"{__name__}.SIZE", (8, 8))
    state = make_state(program, classes=program == "y0ast" and key is None, dtype=torch.float32)
    torch.save({key: state, "global_step": 3, "optim": {"state": {}}} if key else state, tmp_path / "model.pkg")
    run = tmp_path / "run"
    arguments = ["--format", program, str(tmp_path / "model.pkg"), "--output", str(run)]
    model = load_model(import_checkpoint.main(arguments))
    images, noise = images_of()
    low, high = ENDS[program]
    x = low + (high - low) * (images + noise) / 256
    labels = torch.arange(len(images)) if model.num_classes else None
    double = {name: tensor.double() for name, tensor in state.items()}
    expected, _ = Reference(program, double).log_prob_and_latents(x, labels)
    with torch.no_grad():
        found = model.double()(images, noise, labels) - log_volume(192, 8)
    assert torch.allclose(found, expected + 192 * math.log(high - low), rtol=1e-5)
    if not model.num_classes:
        evaluate.main(["--checkpoint", str(run), "--data", str(dataset), "--baselines", "false"])
        assert json.loads((run / "report/step-00000000-test/bpd.json").read_text())["valid"]
    sample.main(["--checkpoint", str(run), "--temperatures", "0", "--num_images", "4"])


WITHOUT = object()


@pytest.mark.parametrize(
    ("program", "name", "value", "message"),
    [
        ("y0ast", "prior_h", WITHOUT, "not a state dict of y0ast's Glow: it has no prior_h"),
        ("y0ast", "prior_h", torch.ones(1, 48, 2, 3), "prior_h is not 0"),
        ("y0ast", "prior_h", torch.zeros(3), "not a state dict of y0ast's Glow: "),
        ("y0ast", "flow.layers.3.actnorm.bias", WITHOUT, r"flow\.layers\.3 is missing or out of place"),
        ("y0ast", "flow.layers.4.conv.logs", WITHOUT, r"flow\.layers\.\d is missing or out of place"),
        ("y0ast", "flow.layers.2.block.4.logs", WITHOUT, r"it has no flow\.layers\.2\.block\.4\.logs"),
        ("y0ast", "flow.layers.2.block.4.logs", torch.full((12, 1, 1), math.nan), r"conv3\.log_scale is not finite"),
        ("y0ast", "flow.layers.2.invconv.log_s", torch.zeros(13), r"\[13\] where chain\.2\..*log_s needs \[12\]"),
        ("y0ast", "flow.layers.99999.actnorm.bias", torch.zeros(1), r"flow\.layers\.\d+ is missing or out of place"),
        ("chaiyujin", "flow.layers.1.f.0.weight", torch.zeros(10**12, 0), "where chain|chaiyujin's Glow: "),
        ("chaiyujin", "project_ycond.weight", torch.zeros(48, 40), "one class"),
    ],
)
def test_broken_models_are_refused(program, name, value, message):
    state = make_state(program) | {name: value}
    state = {name: value for name, value in state.items() if value is not WITHOUT}
    with pytest.raises(ValueError, match=message) as error:
        IMPORTERS[program](state)
    assert "\n" not in str(error.value)


def test_what_cannot_be_expressed_is_refused(tmp_path):
    state = {name: value for name, value in make_state("y0ast").items() if ".invconv." not in name}
    with pytest.raises(ValueError, match=r"permutations \(reverse or shuffle\), which the file does not hold"):
        from_y0ast(state)
    with pytest.raises(ValueError, match=r"image_size: 8 is not allowed; the file holds a model of 8 x 12"):
        from_y0ast(make_state("y0ast"), image_size=8)
    with pytest.raises(ValueError, match="not a state dict of chaiyujin's Glow: it has no "):
        from_chaiyujin(make_state("y0ast"))
    with pytest.raises(ValueError, match="not a state dict of y0ast's Glow: it has no "):
        from_y0ast(make_state("chaiyujin"))
    with pytest.raises(ValueError, match=r"image_range: \[1.0, 0.0\] is not allowed; give two numbers"):
        import_checkpoint.main(["--image_range", "[1, 0]", "x.pt"])
    torch.save({"graph": {"x": 3}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"not a state dict \(tensors by name\)"):
        import_checkpoint.main(["--format", "chaiyujin", str(tmp_path / "other.pt"), "--output", str(tmp_path / "run")])
