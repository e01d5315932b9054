"""Changed files of others, as test_changed_runs: tars, pictures, state dicts."""

import contextlib
import io
import shutil
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from attempts import attempt, fuzzed
from conftest import write_images
from hypothesis import given
from hypothesis import strategies as st
from mutations import changed_bytes
from pictures import encoded, picture
from PIL import Image

from glow.data.read.manifest import load_dataset
from glow.data.read.reader import SplitReader
from glow.training.checkpoints.models import load_model
from pipelines import import_checkpoint, prepare


def stored(data):
    """The images of a data set by the name of their file."""
    reader = SplitReader(data, "train")
    keys = reader.keys()
    return {key: reader.decode(reader.read([number])[number]) for number, key in enumerate(keys)}


@pytest.mark.parametrize("skips", [False, True])
def test_source_tar(tmp_path, skips):
    write_images(tmp_path / "images", 6)
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(tmp_path / "images", "images")
    assert_prepares(tmp_path / "images.tar", changed_bytes, tmp_path, skips)


def assert_prepares(path, change, root, skips=False):
    """Prepare changed files: each image that is stored is as it was, and the others are counted."""
    content = path.read_bytes()
    options = ("--output", root / "data", "--num_workers", 0, *["--on_error", "skip"] * skips)
    attempt(prepare.main, "--source", path, *options)
    right = stored(root / "data")

    @fuzzed
    @given(change(content))
    def stays_right(changed):
        path.write_bytes(changed)
        shutil.rmtree(root / "data", ignore_errors=True)
        attempt(prepare.main, "--source", path, *options)
        if (root / "data").exists():
            found = stored(root / "data")
            assert len(found) + len(load_dataset(root / "data").left_out) <= len(right) + 1
            for key, image in found.items():
                # A name may be changed: then the pixels are those of some image.
                assert any(np.array_equal(image, other) for other in ([right[key]] if key in right else right.values()))
        else:
            assert not [*root.glob(".data*")]

    stays_right()


@pytest.mark.parametrize("kind", ["PNG", "PNG interlaced", "JPEG with EXIF"])
def test_picture_in_a_folder(tmp_path, kind):
    """Changes of pixels that no checksum shows, as in a JPEG, are not looked for: only its metadata are changed."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = picture(0)
    if kind == "JPEG with EXIF":
        exif = Image.Exif()
        exif[0x0112], exif[0x010F], exif[0x011A], exif[0x9003] = 6, "maker", 72.0, "2026:01:01"
        content = encoded(pixels, "JPEG", exif=exif)
        start = content.index(b"Exif")
        change = changed_exif(content, start, struct.unpack(">H", content[start - 2 : start])[0])
    else:
        content = encoded(pixels)
        if kind == "PNG interlaced":
            content = interlaced(pixels)
        change = changed_bytes(content)
    with Image.open(io.BytesIO(content)) as image:
        plain = np.asarray(image.convert("RGB"))
    turned = [np.rot90(side, turns) for side in (plain, plain[:, ::-1]) for turns in range(4)]

    @fuzzed
    @given(change)
    def stays_right(changed):
        (folder / ("a.jpg" if kind.startswith("JPEG") else "a.png")).write_bytes(changed)
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        attempt(prepare.main, "--source", folder, "--output", tmp_path / "data", "--num_workers", 0)
        if (tmp_path / "data").exists():
            (image,) = stored(tmp_path / "data").values()
            image = image.transpose(1, 2, 0)
            assert any(np.array_equal(image, other) for other in (turned if kind.startswith("JPEG") else [plain]))
        else:
            assert not kind.startswith("JPEG"), "metadata are no reason to refuse pixels"

    stays_right()


@st.composite
def changed_exif(draw, content, start, length):
    """A JPEG whose EXIF, of this place and length, has other bytes, as many as before."""
    block = bytearray(content[start : start + length - 2])
    for _ in range(draw(st.integers(1, 6))):
        block[draw(st.integers(6, len(block) - 1))] = draw(st.integers(0, 255))
    return content[:start] + bytes(block) + content[start + length - 2 :]


def interlaced(pixels):
    """An interlaced PNG (Adam7), which Pillow does not write."""
    rows = b""
    for column, row, step_x, step_y in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
    ):  # fmt: skip
        part = pixels[row::step_y, column::step_x]
        rows += b"".join(b"\0" + line.tobytes() for line in part if line.size)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


ODD_TENSORS = {
    "meta": lambda t: torch.empty_like(t, device="meta"),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "stride 0": lambda t: torch.zeros(1).expand(10**6, 10**6),
    "empty": lambda t: torch.empty(0),
    "scalar": lambda t: torch.tensor(1.0),
    "other shape": lambda t: torch.zeros(*t.shape, 2),
    "complex": lambda t: t.to(torch.complex64),
    "sparse": lambda t: t.flatten()[:1].float().to_sparse(),
    "whole numbers": lambda t: t.to(torch.int64),
    "not finite": lambda t: torch.full_like(t, float("nan")),
    "a text": lambda t: "weight",
    "a list": lambda t: [1, 2],
    "none": lambda t: None,
    "half": lambda t: t.half(),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_state_dict_of_another_program(tmp_path):
    from importing.test_rosinality import make_state

    state = make_state(affine=True, lu=True, dtype=torch.float32)
    torch.save(state, tmp_path / "model.pt")
    content = (tmp_path / "model.pt").read_bytes()
    command = ("--image_size", 16, "--num_bits", 5, "--output", tmp_path / "run", tmp_path / "model.pt")
    attempt(import_checkpoint.main, *command)
    right = {name: value.shape for name, value in load_model(tmp_path / "run").state_dict().items()}

    @st.composite
    def changed_state(draw):
        changed = dict(state)
        for _ in range(draw(st.integers(1, 2))):
            name = draw(st.sampled_from(sorted(changed)))
            match draw(st.sampled_from(["odd", "odd", "odd", "remove", "rename"])):
                case "odd" if isinstance(changed[name], torch.Tensor) and changed[name].device.type == "cpu":
                    with contextlib.suppress(RuntimeError, NotImplementedError):
                        changed[name] = draw(st.sampled_from(sorted(ODD_TENSORS.items())))[1](changed[name])
                case "remove":
                    del changed[name]
                case _:
                    changed[f"{name}.x"] = changed.pop(name)
        stream = io.BytesIO()
        torch.save(changed, stream)
        return stream.getvalue()

    @fuzzed
    @given(changed_state() | changed_bytes(content))
    def stays_right(changed):
        (tmp_path / "model.pt").write_bytes(changed)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        if attempt(import_checkpoint.main, *command) is None:
            assert not (tmp_path / "run/checkpoints").exists()
        else:
            model = load_model(tmp_path / "run").state_dict()
            assert {name: value.shape for name, value in model.items()} == right
            assert all(value.isfinite().all() for value in model.values())

    stays_right()
