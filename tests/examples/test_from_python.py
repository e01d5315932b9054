"""The Python of the page about Python, and that of the README, runs from top to bottom."""

import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
PLACES = {"affine": "runs/digits", "mixture": "runs/digits-classes", "vectors": "runs/moons", "data": "data/digits"}


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Go to a folder with runs, a data set and pictures; return the first ten pictures, of 16 grey levels."""
    with tarfile.open(ROOT / "tests/compatibility/0.1.0.tar.gz") as tar:
        tar.extractall(tmp_path / "archive", filter="data")
    for name, place in PLACES.items():
        shutil.copytree(tmp_path / "archive" / name, tmp_path / place)
    pixels = 17 * np.random.default_rng(0).integers(0, 16, (12, 8, 8), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"pictures/{number:02d}.png")
    monkeypatch.chdir(tmp_path)
    return pixels[:10, None]


def blocks_of(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_page_runs(images):
    seen = {}
    for number, block in enumerate(blocks_of("docs/how-to/from-python.md")):
        exec(compile(block, f"block {number}", "exec"), seen)
        if "halfway" in block:
            assert torch.equal(seen["same"], torch.from_numpy(images))
            assert seen["halfway"].shape == (1, 1, 8, 8)
    assert number == 9
    assert seen["given"].shape == seen["unknown"].shape == (8,)
    assert seen["loss"].isfinite()


def test_readme_runs(images):
    Path("runs/digits").rename("runs/photos")
    Image.fromarray(images[0, 0]).save("b.png")
    Image.new("RGB", (30, 20), "teal").save("a.jpg")
    seen = {}
    (block,) = blocks_of("README.md")
    exec(compile(block, "README", "exec"), seen)
    assert seen["bits"].shape == (2,)
    assert seen["samples"].shape == (16, 1, 8, 8)
    assert torch.equal(seen["same"][1], torch.from_numpy(images[0]))
