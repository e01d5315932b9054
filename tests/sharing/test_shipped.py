"""The model that comes with glow loads by its name, and reaches what its card says."""

import json
from pathlib import Path

import pytest

import glow
from glow.training.checkpoints.manager import SHIPPED
from pipelines import evaluate, prepare


def test_the_digits_model_reaches_the_bits_per_dim_of_its_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--validation", "180", "--test", "360", "--num_workers", "0"]
    prepare.main(["--source", "digits", "--output", "data/digits", *options])
    report = evaluate.main(["--checkpoint", "digits", "--data", "data/digits", "--baselines", "false"])
    measured = json.loads((report / "bpd.json").read_text())
    (told,) = json.loads((SHIPPED / "digits/config.json").read_text())["measured"]
    assert measured["dataset"]["sha256"] == told["data_sha256"]
    assert measured["bits_per_dim"] == pytest.approx(told["bits_per_dim"], abs=1e-4)
    assert report.parts[:2] == ("results", "digits")
    card = (SHIPPED / "digits/README.md").read_text()
    assert f"| {told['bits_per_dim']:.3f} ± {told['standard_error']:.3f} |" in card


def test_a_path_comes_before_the_model_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert glow.load("digits").glow.image_shape == (1, 8, 8)
    Path("digits").mkdir()
    hidden = "digits: taken from this folder; the model digits that comes with glow is hidden"
    with pytest.warns(UserWarning, match=hidden), pytest.raises(ValueError, match="digits: holds no latest checkpoint"):
        glow.load("digits")
    for name in ("", ".", "..", "dig", "./digit"):
        with pytest.raises(ValueError, match=r"no such checkpoint|holds no latest checkpoint"):
            glow.load(name)


def test_the_model_is_small():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) < 2 * 2**20
