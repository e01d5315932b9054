"""Changed files: each stage gives the right result or one line, within 10 s and 1 GB.

GLOW_FUZZ=5000 sets the number of examples of each test; without it they are few, and always the same.
"""

import contextlib
import io
import json
import os
import re
import shutil
import struct
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from conftest import write_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import changed_bytes, changed_json, changed_values
from pictures import encoded, picture
from PIL import Image
from saved_runs import save_moved_run

from glow.cli import run_stage
from glow.data.read.manifest import load_dataset
from glow.data.read.reader import SplitReader
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import read_state
from pipelines import evaluate, import_checkpoint, prepare, sample, train

SECONDS, BYTES = 10, 2**30
EXAMPLES = int(os.environ.get("GLOW_FUZZ", "30"))
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize="GLOW_FUZZ" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def memory(name):
    """A line of the system's account of this process, in bytes: VmRSS now, or VmHWM, the most so far."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def attempt(main, *arguments):
    """Run a stage as the command line does; return what it returns, or None after one line and status 1."""
    Path("/proc/self/clear_refs").write_text("5")  # the most memory so far is that of now
    before, start, results, status = memory("VmRSS"), time.perf_counter(), [], 0
    out, err = io.StringIO(), io.StringIO()
    AcceleratorState._reset_state(reset_partial_state=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr("glow.cli.stage._keep_own_warnings", lambda: None)
        try:
            run_stage(lambda: results.append(main([str(argument) for argument in arguments])))
        except SystemExit as end:
            status, results = end.code, [None]
    if results == [None] and status:
        assert status == 1
        errors = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, err.getvalue()
        assert errors[0].isprintable()
        assert 8 < len(errors[0]) < 2000
    assert "Traceback" not in err.getvalue()
    assert time.perf_counter() - start < SECONDS
    assert memory("VmHWM") - before < BYTES
    return results[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_moved_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def drawn(run, tmp_path_factory):
    """The image that the unharmed checkpoint draws."""
    return draw_one(run, tmp_path_factory.mktemp("drawn"))


def draw_one(run, output):
    shutil.rmtree(output, ignore_errors=True)
    folder = attempt(sample.main, "--checkpoint", run, "--output", output, "--num_images", 1, "--temperatures", 0.7)
    return None if folder is None else (folder / "grid-t0.70.png").read_bytes()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["state.json", "config.yaml"])
def test_checkpoint(run, drawn, tmp_path, name):
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "checkpoints/step-00000007" / name
    content, values, state = path.read_bytes(), yaml.safe_load(path.read_text()), read_state(path.parent)
    as_yaml = changed_values(values).map(lambda value: yaml.safe_dump(value).encode(errors="replace"))

    @fuzzed
    @given(changed_json(content) if name == "state.json" else changed_bytes(content) | as_yaml)
    def stays_right(changed):
        path.write_bytes(changed)
        image = draw_one(copy, tmp_path / "samples")
        assert image in (None, drawn)  # whatever is read is vouched for
        if image is not None:
            assert read_state(path.parent) == state
            assert changed == content or name == "state.json"  # its layout may change

    stays_right()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["state.json", "config.yaml", "metrics.jsonl"])
def test_run_that_is_resumed(dataset, tmp_path_factory, name):
    root = tmp_path_factory.mktemp("resumed")
    small = ["--data.path", dataset, "--model.num_levels", 1, "--model.num_steps_per_level", 1]
    small += ["--model.hidden_channels", 4, "--train.batch_size", 4, "--train.log_every", 1]
    attempt(train.main, *small, "--output", root / "run", "--train.num_steps", 1)
    attempt(train.main, *small, "--output", root / "run", "--train.num_steps", 2)
    expected = (root / "run/checkpoints/step-00000002/model.safetensors").read_bytes()
    shutil.rmtree(root / "run/checkpoints/step-00000002")
    folder = Path("." if name == "metrics.jsonl" else "checkpoints/step-00000001")
    content = (root / "run" / folder / name).read_bytes()
    change = changed_bytes(content) if name == "config.yaml" else changed_json(content)
    if name == "metrics.jsonl":  # one line
        change = changed_json(content.splitlines()[0]).map(lambda line: line + b"\n")

    @settings(fuzzed, max_examples=max(1, EXAMPLES // 3))
    @given(change)
    def stays_right(changed):
        copy = root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(root / "run", copy)
        (copy / folder / name).write_bytes(changed)
        attempt(train.main, *small, "--output", copy, "--train.num_steps", 2)
        last = copy / "checkpoints/step-00000002/model.safetensors"
        assert not last.exists() or last.read_bytes() == expected

    stays_right()


def measured(run, data, output):
    """The bits/dim of the images, by key."""
    shutil.rmtree(output, ignore_errors=True)
    options = ("--checkpoint", run, "--data", data, "--output", output, "--baselines", "false")
    if attempt(evaluate.main, *options) is None:
        return None
    summary = json.loads((output / "bpd.json").read_text())
    assert summary["valid"]
    rows = (output / "per_image.csv").read_text().splitlines()[1:]
    return {row.split(",")[0]: row.split(",")[2] for row in rows}


@pytest.fixture(scope="module")
def expected(run, dataset, tmp_path_factory):
    return measured(run, dataset, tmp_path_factory.mktemp("expected"))


@pytest.fixture
def quick(monkeypatch):
    """Draw no figures: they take most of the time, and show no more than the numbers do."""
    for name in ("plot_histogram", "plot_levels", "plot_training_curve"):
        monkeypatch.setattr(f"glow.evaluation.report.{name}", lambda *arguments: None)
    monkeypatch.setattr("glow.evaluation.report.svg", lambda figure: b"")


@pytest.mark.parametrize("name", ["dataset.json", "test-00001.idx"])
def test_data_set(run, dataset, expected, quick, tmp_path, name):
    copy = shutil.copytree(dataset, tmp_path / "data")
    path = copy / name
    content = path.read_bytes()

    @fuzzed
    @given(changed_json(content) if name == "dataset.json" else changed_bytes(content) | changed_index(content))
    def stays_right(changed):
        path.write_bytes(changed)
        found = measured(run, copy, tmp_path / "report")
        assert found is None or found == expected, sorted({*found.items()} ^ {*expected.items()})

    stays_right()


@st.composite
def changed_index(draw, content):
    """An index with another number, or with two lines exchanged."""
    lines = [line.split() for line in content.decode().splitlines()]
    if draw(st.booleans()):
        line = draw(st.sampled_from(lines))
        place = draw(st.integers(0, len(line) - 1))
        line[place] = str(draw(st.sampled_from([0, 1, -1, 512, 10**15, 10**30, "png", "", "x" * 300])))
    else:
        one, other = draw(st.sampled_from(lines[1:])), draw(st.sampled_from(lines[1:]))
        place = draw(st.integers(0, min(len(one), len(other)) - 1))
        one[place], other[place] = other[place], one[place]
    return "\n".join(" ".join(line) for line in lines).encode() + b"\n"


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.json"])
def test_files_of_a_run_that_a_report_shows(run, dataset, expected, tmp_path, name):
    copy = shutil.copytree(run, tmp_path / "run")
    attempt(sample.main, "--checkpoint", copy, "--num_images", 1, "--temperatures", 0.7)
    path = copy / ("metrics.jsonl" if name == "metrics.jsonl" else "samples/step-00000007/samples.json")
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    one_line = changed_json(lines[2]).map(lambda line: b"".join([*lines[:2], line, b"\n", *lines[3:]]))

    @settings(fuzzed, max_examples=max(1, EXAMPLES // 2))  # with all figures
    @given(changed_json(content) if name == "samples.json" else changed_bytes(content) | one_line)
    def stays_right(changed):
        path.write_bytes(changed)
        assert measured(copy, dataset, tmp_path / "report") in (None, expected)

    stays_right()


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
