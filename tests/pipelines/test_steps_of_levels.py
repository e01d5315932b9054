"""A model with another number of steps in each level, through all stages."""

import json
import re

import pytest
import torch

import glow
from pipelines import evaluate, export, plan, sample, train


def test_every_stage_takes_steps_for_each_level(dataset, tmp_path, capsys):
    run = tmp_path / "run"
    model = ["--model.num_levels", "2", "--model.num_steps_per_level", "[3, 1]", "--model.hidden_channels", "4"]
    train.main([*model, "--data.path", str(dataset), "--output", str(run), "--train.num_steps", "2"])
    loaded = glow.load(run)
    assert [len(level) for level in loaded.glow.levels] == [5, 3]
    assert loaded.glow.config.num_steps_per_level == (3, 1)
    assert (sample.main(["--checkpoint", str(run)]) / "grid-t0.70.png").is_file()
    report = evaluate.main(["--checkpoint", str(run), "--data", str(dataset)])
    assert json.loads((report / "bpd.json").read_text())["model"]["num_steps_per_level"] == [3, 1]
    assert re.search(r"2 levels of\s+3/1 steps", (report / "report.html").read_text())
    export.main(["--checkpoint", str(run), "--output", str(tmp_path / "hub"), "--license", "mit"])
    assert "| 3/1 |" in (tmp_path / "hub" / "README.md").read_text()
    images = torch.zeros(2, *loaded.glow.image_shape, dtype=torch.uint8)
    assert torch.equal(glow.load(tmp_path / "hub").bits_per_dim(images), loaded.bits_per_dim(images))
    plan.main([*model, "--model.image_shape", "[3, 8, 8]"])
    assert "K 3/1" in capsys.readouterr().out


def test_another_number_of_levels_is_refused(dataset, tmp_path):
    message = "model.num_steps_per_level: .* is not allowed; give one number, or 2, one for each level"
    with pytest.raises(ValueError, match=message):
        train.main(
            ["--model.num_levels", "2", "--model.num_steps_per_level", "[3, 1, 1]", "--output", str(tmp_path / "x")]
        )
