"""The stages together, as a user runs them, on real images."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import read_split

from glow.training.metrics import read_metrics
from pipelines import demo, evaluate, prepare, sample, train

CIFAR10 = Path("../shared/data/cifar10")


def test_demo_beats_its_baselines_on_digits(tmp_path, capsys):
    # A fifth of the demo's training: enough to leave the Gaussian behind by the margin that the whole has to reach.
    training = yaml.safe_load(Path("configs/digits.yaml").read_text())
    training["train"] |= {"num_steps": 180, "validate_every": 90}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(training))
    run = tmp_path / "run"
    demo.main(["--data", str(tmp_path / "data"), "--output", str(run), "--training", str(tmp_path / "short.yaml")])
    *_, grid, report, page = (line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines())
    assert page == f"make explore, or glow explore --checkpoint {run}"
    assert Path(grid).is_file()
    assert Path(report).is_file()
    summary = json.loads((Path(report).parent / "bpd.json").read_text())
    assert summary["num_images"] == 360
    gaussian, histogram = (summary["baselines"][name] for name in ("Gaussian", "histogram of each pixel"))
    assert gaussian["bits_per_dim"] == pytest.approx(2.97, abs=0.1)
    assert histogram["bits_per_dim"] == pytest.approx(2.33, abs=0.1)
    assert gaussian["model_minus_baseline"] + 4 * gaussian["standard_error"] < -0.2
    assert histogram["standard_error"] > 0


@pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"the CIFAR-10 zips are not in {CIFAR10}")
def test_cifar10_goes_through_all_stages(tmp_path, capsys):
    data, run = tmp_path / "cifar10", tmp_path / "run"
    # One zip is enough: it is the other half of the time that would not tell anything new.
    prepare.main(
        ["--source", str(CIFAR10 / "train-a.zip"), "--output", str(data), "--validation", "200", "--test", "300"]
    )
    manifest = json.loads((data / "dataset.json").read_text())
    assert {name: split["num_images"] for name, split in manifest["splits"].items()} == {
        "train": 24461, "validation": 200, "test": 300,
    }  # fmt: skip
    assert len(manifest["classes"]) == 10
    pixels, label = next(iter(read_split(data, "test").values()))
    assert pixels.shape == (32, 32, 3)
    assert label in range(10)
    small = ["--model.num_steps_per_level", "2", "--model.hidden_channels", "16", "--train.num_steps", "30"]
    small += ["--train.batch_size", "16", "--optimizer.warmup_steps", "5", "--train.log_every", "5"]
    train.main(
        [
            "--config",
            "configs/cifar10.yaml",
            "--data.path",
            str(data),
            "--output",
            str(run),
            *small,
            "--data.num_workers",
            "1",
        ]
    )
    losses = [line["train/bits_per_dim"] for line in read_metrics(run)]
    assert losses[-1] < losses[0] - 0.5
    sample.main(["--checkpoint", str(run), "--num_images", "4", "--temperatures", "[0.7]"])
    evaluate.main(["--checkpoint", str(run), "--data", str(data), "--baselines", "false"])
    summary = json.loads(next((run / "report").rglob("bpd.json")).read_text())
    assert 3 < summary["bits_per_dim"] < 8
    assert summary["num_images"] == 300
