"""The Python on the page about Python runs, from top to bottom."""

import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

PAGE = Path("docs/how-to/from-python.md")


def test_page_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    with tarfile.open("tests/compatibility/0.1.0.tar.gz") as tar:
        tar.extractall(tmp_path / "archive", filter="data")
    names = {
        "affine": "runs/digits",
        "mixture": "runs/digits-classes",
        "vectors": "runs/moons",
        "data": "data/digits",
    }
    for name, place in names.items():
        shutil.copytree(tmp_path / "archive" / name, tmp_path / place)
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = 17 * rng.integers(0, 16, (8, 8), dtype=np.uint8)  # the grey levels of 4 bits
        Image.fromarray(pixels).save(tmp_path / f"pictures/{number:02d}.png")
    monkeypatch.chdir(tmp_path)
    seen = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"block {number} of {PAGE}", "exec"), seen)
        if "same = model.decode(z)" in block:
            assert torch.equal(seen["same"], torch.from_numpy(seen["images"]))
            assert seen["halfway"].shape == (1, 1, 8, 8)
    assert len(blocks) == 10
    assert seen["given"].shape == seen["unknown"].shape == (8,)
    assert seen["loss"].isfinite()
