"""Models of rosinality/glow-pytorch give the log-probability and images that an independent reading of them gives."""

import json
import math
import os
import random
import warnings
import zipfile

import pytest
import torch
from torch.nn import functional as F

from glow.importing.reading import read_state_dict
from glow.importing.rosinality import from_rosinality
from glow.models.glow import Glow
from glow.models.images import log_volume
from glow.training.checkpoints.models import load_model
from pipelines import evaluate, import_checkpoint, sample

LEVELS, STEPS, WIDTH = 3, 2, 6


def make_state(affine: bool, lu: bool, size: float = 0.05, dtype=torch.float64) -> dict[str, torch.Tensor]:
    """A state dict with the names and shapes of that program, with random numbers nowhere special."""
    rng = torch.Generator().manual_seed(0)

    def random(*shape, scale=size):
        return (scale * torch.randn(*shape, generator=rng, dtype=torch.float64)).to(dtype)

    state, channels = {}, 3
    for block in range(LEVELS):
        channels *= 4
        for flow in range(STEPS):
            name = f"blocks.{block}.flows.{flow}"
            state[f"{name}.actnorm.loc"] = random(1, channels, 1, 1)
            signs = torch.tensor([1.0, 1.0, -1.0], dtype=dtype).repeat(channels)[:channels]
            state[f"{name}.actnorm.scale"] = (1 + random(1, channels, 1, 1)) * signs.view(1, -1, 1, 1)
            state[f"{name}.actnorm.initialized"] = torch.tensor(1, dtype=torch.uint8)
            if lu or block == LEVELS - 1:  # that program decomposes its last block in any case
                state[f"{name}.invconv.w_p"] = torch.eye(channels, dtype=dtype)[torch.randperm(channels, generator=rng)]
                state[f"{name}.invconv.w_l"] = random(channels, channels, scale=0.05)
                state[f"{name}.invconv.w_u"] = random(channels, channels, scale=0.05)
                state[f"{name}.invconv.w_s"] = random(channels)
                state[f"{name}.invconv.s_sign"] = random(channels).sign()
                state[f"{name}.invconv.u_mask"] = torch.ones(channels, channels, dtype=dtype).triu(1)
                state[f"{name}.invconv.l_mask"] = torch.ones(channels, channels, dtype=dtype).tril(-1)
                state[f"{name}.invconv.l_eye"] = torch.eye(channels, dtype=dtype)
            else:
                weight = torch.linalg.qr(random(channels, channels, scale=1).double()).Q.to(dtype) + random(
                    channels, channels, scale=0.05
                )
                state[f"{name}.invconv.weight"] = weight[:, :, None, None]
            net = f"{name}.coupling.net"
            state |= {f"{net}.0.weight": random(WIDTH, channels // 2, 3, 3), f"{net}.0.bias": random(WIDTH)}
            state |= {f"{net}.2.weight": random(WIDTH, WIDTH, 1, 1), f"{net}.2.bias": random(WIDTH)}
            out = channels if affine else channels // 2
            state |= {f"{net}.4.conv.weight": random(out, WIDTH, 3, 3), f"{net}.4.conv.bias": random(out)}
            state[f"{net}.4.scale"] = random(1, out, 1, 1)
        is_last = block == LEVELS - 1
        kept = channels if is_last else channels // 2
        prior = f"blocks.{block}.prior"
        state |= {f"{prior}.conv.weight": random(2 * channels if is_last else channels, kept, 3, 3)}
        state |= {f"{prior}.conv.bias": random(2 * channels if is_last else channels)}
        state[f"{prior}.scale"] = random(1, 2 * channels if is_last else channels, 1, 1)
        channels = kept
    return state


class Reference:
    """That program's model, read off its state dict, without any of our code."""

    def __init__(self, state):
        self.state = state

    def zero_conv(self, name, x):
        w, b, s = (self.state[f"{name}.{part}"] for part in ("conv.weight", "conv.bias", "scale"))
        border = torch.ones(len(x), x.shape[1], x.shape[2] + 2, x.shape[3] + 2, dtype=x.dtype)
        border[:, :, 1:-1, 1:-1] = x
        return (F.conv2d(border, w) + b.view(1, -1, 1, 1)) * torch.exp(3 * s)

    def net(self, name, x):
        s = self.state
        x = torch.relu(F.conv2d(x, s[f"{name}.0.weight"], s[f"{name}.0.bias"], padding=1))
        x = torch.relu(F.conv2d(x, s[f"{name}.2.weight"], s[f"{name}.2.bias"]))
        return self.zero_conv(f"{name}.4", x)

    def matrix(self, name):
        s = self.state
        if f"{name}.weight" in s:
            return s[f"{name}.weight"][:, :, 0, 0]
        lower = s[f"{name}.w_l"] * s[f"{name}.l_mask"] + s[f"{name}.l_eye"]
        upper = s[f"{name}.w_u"] * s[f"{name}.u_mask"] + torch.diag(s[f"{name}.s_sign"] * s[f"{name}.w_s"].exp())
        return s[f"{name}.w_p"] @ lower @ upper

    def step(self, name, x):
        s, area = self.state, x.shape[2] * x.shape[3]
        x = s[f"{name}.actnorm.scale"] * (x + s[f"{name}.actnorm.loc"])
        logdet = area * s[f"{name}.actnorm.scale"].abs().log().sum()
        w = self.matrix(f"{name}.invconv")
        x = torch.einsum("ij,njhw->nihw", w, x)
        logdet = logdet + area * torch.linalg.slogdet(w).logabsdet
        a, b = x.tensor_split(2, dim=1)
        out = self.net(f"{name}.coupling.net", a)
        if out.shape[1] == a.shape[1]:
            return torch.cat([a, b + out], 1), logdet
        log_s, t = out.tensor_split(2, dim=1)
        gate = 1 / (1 + torch.exp(-(log_s + 2)))
        return torch.cat([a, (b + t) * gate], 1), logdet + gate.log().flatten(1).sum(1)

    def log_prob_and_latents(self, x):
        total, latents = 0, []
        for block in range(LEVELS):
            n, c, h, w = x.shape
            x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
            for flow in range(STEPS):
                x, logdet = self.step(f"blocks.{block}.flows.{flow}", x)
                total = total + logdet
            if block < LEVELS - 1:
                x, out = x.tensor_split(2, dim=1)
                mean, log_sd = self.zero_conv(f"blocks.{block}.prior", x).tensor_split(2, dim=1)
            else:
                out = x
                mean, log_sd = self.zero_conv(f"blocks.{block}.prior", torch.zeros_like(x)).tensor_split(2, dim=1)
            eps = (out - mean) / log_sd.exp()
            latents.append(eps)
            total = total - (0.5 * eps**2 + log_sd + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)
        return total, latents


def images_of(count=4):
    rng = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=rng)
    return images, torch.rand(images.shape, dtype=torch.float64, generator=rng)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("lu", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_imported_model_gives_the_same_log_prob_and_images(affine, lu, prefix):
    state = make_state(affine, lu)
    config, tensors = from_rosinality({prefix + name: tensor for name, tensor in state.items()}, 8, 5)
    model = Glow(config).double()
    model.load_state_dict(tensors)
    images, noise = images_of()
    x = (images // 8 + noise) / 32 - 0.5  # as that program scales 5-bit images
    expected, latents = Reference(state).log_prob_and_latents(x)
    assert expected.abs().max() < 1e4
    assert torch.allclose(model(images, noise) - log_volume(192, 5), expected, rtol=1e-9, atol=0)
    ours, _ = model.encode(x)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(ours, latents, strict=True))
    assert (model.decode(latents) - x).abs().max() < 1e-8


def test_stage_writes_a_checkpoint_that_the_others_take(dataset, tmp_path):
    state = make_state(True, True, 0.05, torch.float32)
    torch.save(state, tmp_path / "model.pt")
    run = tmp_path / "run"
    arguments = ["--format", "rosinality", str(tmp_path / "model.pt"), "--image_size", "8", "--output", str(run)]
    saved = import_checkpoint.main(arguments)
    model = load_model(saved)
    images, noise = images_of()
    x = (images // 8 + noise) / 32 - 0.5
    expected, _ = Reference({name: tensor.double() for name, tensor in state.items()}).log_prob_and_latents(x)
    with torch.no_grad():
        found = model.double()(images, noise) - log_volume(192, 5)
    assert torch.allclose(found, expected, rtol=1e-5)
    evaluate.main(["--checkpoint", str(run), "--data", str(dataset), "--baselines", "false"])
    assert json.loads((run / "report/step-00000000-test/bpd.json").read_text())["valid"]
    sample.main(["--checkpoint", str(run), "--temperatures", "0", "--num_images", "4"])
    with pytest.raises(ValueError, match="holds checkpoints already"):
        import_checkpoint.main(arguments)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        import_checkpoint.main([str(tmp_path / "missing.pt")])
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pt: not a file of tensors written by torch\.save$"):
        import_checkpoint.main([str(tmp_path / "text.pt"), "--output", str(tmp_path / "run")])
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"it has no blocks\.0\.flows\.0"):
        import_checkpoint.main([str(tmp_path / "other.pt"), "--output", str(tmp_path / "run")])
    state = make_state(True, True)
    del state["blocks.1.prior.scale"]
    with pytest.raises(ValueError, match=r"it has no blocks\.1\.prior\.scale"):
        from_rosinality(state, 8, 5)
    with pytest.raises(ValueError, match=r"image_size: 20 is not allowed; give a multiple of 2\^L = 8"):
        from_rosinality(make_state(True, True), 20, 5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blocks.0.flows.0.actnorm.loc", torch.zeros(()), "not a state dict of rosinality's Glow: "),
        ("blocks.0.flows.0.actnorm.scale", torch.ones(1, 5, 1, 1), "not a state dict of rosinality's Glow: "),
        ("blocks.0.flows.0.actnorm.scale", torch.zeros(1, 12, 1, 1), r"log_scale is not finite"),
        ("blocks.1.flows.0.actnorm.initialized", torch.tensor(0), r"never trained: blocks\.1\.flows\.0"),
        ("blocks.1.prior.conv.bias", torch.full((24,), math.nan), r"conv\.bias is not finite"),
        ("blocks.1.flows.0.actnorm.initialized", torch.zeros(3), r"never trained: blocks\.1\.flows\.0"),
        ("blocks.0.flows.0.invconv.w_s", torch.zeros(()), "not a state dict of rosinality's Glow: "),
        ("blocks.0.flows.0.invconv.w_u", torch.zeros(10**5, 1), "not a state dict of rosinality's Glow: "),
        ("blocks.0.flows.0.invconv.w_s", torch.zeros(10**6), "not a state dict of rosinality's Glow: "),
        ("blocks.0.flows.0.coupling.net.0.weight", torch.zeros(10**12, 0), "hidden_channels|rosinality's Glow: "),
        ("blocks.99.flows.9999.x", torch.zeros(1), r"it has no blocks\.0\.flows\.2"),
    ],
)
def test_broken_models_are_refused(name, value, message):
    state = make_state(True, True) | {name: value}
    with pytest.raises(ValueError, match=message):
        from_rosinality(state, 8, 5)


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_file_cannot_run_code(tmp_path, capsys):
    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"not a file of tensors written by torch\.save$"):
        import_checkpoint.main([str(tmp_path / "evil.pt"), "--output", str(tmp_path / "run")])
    assert "ran" not in capsys.readouterr().out


def sparse():
    return torch.zeros(2, 2).to_sparse()


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch will remove them
        return torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, device="meta"), "not a plain tensor of real numbers"),
        (sparse(), "not a (plain tensor of real numbers|file of tensors)"),
        (quantised(), "not a (plain tensor of real numbers|file of tensors)"),
        (torch.zeros(2, dtype=torch.complex64), "not a plain tensor of real numbers"),
        (torch.zeros(1).expand(10**12), r"damaged: tensors of 4,000,000,[\d,]+ bytes, but the file has [\d,]+$"),
        ("text", "not a state dict"),
    ],
)
def test_tensors_of_other_kinds_are_refused(tmp_path, tensor, message):
    torch.save({"blocks.0.flows.0.actnorm.loc": tensor}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        import_checkpoint.main([str(tmp_path / "a.pt"), "--output", str(tmp_path / "run")])


def test_compressed_files_are_refused_before_they_are_unpacked(tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as stored, zipfile.ZipFile(tmp_path / "b.pt", "w") as packed:
        for entry in stored.infolist():
            packed.writestr(entry.filename, stored.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"b\.pt: not a file of tensors"):
        read_state_dict(tmp_path / "b.pt")


@pytest.mark.parametrize("is_zip", [True, False])
def test_damaged_files_are_errors_of_one_line(tmp_path, is_zip):
    torch.save(make_state(True, True, dtype=torch.float32), tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    whole, rng = (tmp_path / "a.pt").read_bytes(), random.Random(0)
    for _ in range(40):
        content = bytearray(whole)
        content[rng.randrange(15_000)] = rng.randrange(256)  # names and shapes lie there
        (tmp_path / "b.pt").write_bytes(content[: rng.choice([len(whole), rng.randrange(len(whole))])])
        try:
            from_rosinality(read_state_dict(tmp_path / "b.pt"), 8, 5)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_what_is_no_file_is_an_error(tmp_path, kind):
    {"directory": os.mkdir, "pipe": os.mkfifo}[kind](tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: not a file$"):
        read_state_dict(tmp_path / "a.pt")
