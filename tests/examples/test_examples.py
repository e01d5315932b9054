"""The examples run, and print what they promise."""

import runpy
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path("examples").resolve()
ARCHIVE = Path("tests/compatibility/0.1.0.tar.gz").resolve()


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_score_images_prints_the_ten_least_likely(monkeypatch, capsys, tmp_path):
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(tmp_path, filter="data")
    rng = np.random.default_rng(0)
    for number in range(12):  # flat grey pictures, and one of noise, in colour and larger
        size = (24, 16, 3) if number == 7 else (8, 8)
        pixels = rng.integers(0, 256, size) if number == 7 else np.full(size, 100)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pictures" / f"{number:02d}.png")
    run(monkeypatch, "score_images.py", tmp_path / "affine", tmp_path / "pictures")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0].endswith("07.png")
    bits = [float(line.split()[0]) for line in lines]
    assert bits == sorted(bits, reverse=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="empty: no "):
        run(monkeypatch, "score_images.py", tmp_path / "affine", tmp_path / "empty")


@pytest.mark.parametrize("file", [True, False])
def test_train_points_draws_points_and_samples(monkeypatch, capsys, tmp_path, file):
    monkeypatch.chdir(tmp_path)
    np.save("mine.npy", np.random.default_rng(0).random((300, 2)))
    run(monkeypatch, "train_points.py", 3, *["mine.npy"] * file)
    assert "mean log p(x) of the points: " in capsys.readouterr().out
    with Image.open("points.png") as picture:
        assert picture.size == (800, 400)


def test_new_bijector_agrees_with_autograd(monkeypatch, capsys):
    run(monkeypatch, "new_bijector.py")
    assert "every parameter has a gradient, decode undoes encode" in capsys.readouterr().out
