"""Data sets, checkpoints and runs of earlier versions are read, resumed and measured as those versions did."""

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from make_fixture import RUNS, STEPS, arguments, checksums, platform_of_figures
from PIL import Image
from training_runs import comparable

from pipelines import evaluate, sample, train

ARCHIVES = sorted(Path(__file__).parent.glob("*.tar.gz"))
IMAGE_RUNS = [name for name in RUNS if name != "vectors"]


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def root(request, tmp_path):
    with tarfile.open(request.param) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


def is_same_platform(root):
    """Whether results are those of the archive to the last bit."""
    recorded = json.loads((root / "expected/platform.json").read_text())["platform"]
    # The archive of 0.1.0 does not name them; results are other ones with AVX2.
    return {"vectors": "AVX512", **recorded} == platform_of_figures()


@pytest.mark.parametrize("name", RUNS)
def test_training_goes_on_from_an_earlier_version(root, name):
    train.main(arguments(name, root, 2 * STEPS))
    expected = json.loads((root / "expected/platform.json").read_text())["step_8"][name]
    if is_same_platform(root):
        assert comparable(root / name) == comparable(root / "expected" / name)
        assert checksums(root / name / f"checkpoints/step-{2 * STEPS:08d}") == expected
    for line, other in zip(comparable(root / name), comparable(root / "expected" / name), strict=True):
        assert line.keys() == other.keys()
        for key in line.keys() - {"health/inverse_error"}:
            assert line[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize("name", IMAGE_RUNS)
def test_likelihoods_are_those_of_the_earlier_version(root, name):
    report = evaluate.main(["--checkpoint", str(root / name), "--data", str(root / "data"), "--baselines", "false"])
    rows, expected = (
        {row["key"]: float(row["bits_per_dim"]) for row in csv.DictReader(path.read_text().splitlines())}
        for path in (report / "per_image.csv", root / "expected" / name / "per_image.csv")
    )
    assert len(rows) == 8
    assert rows == (expected if is_same_platform(root) else pytest.approx(expected, rel=1e-5))


@pytest.mark.parametrize("name", RUNS)
def test_samples_are_those_of_the_earlier_version(root, name):
    common = ["--checkpoint", str(root / name), "--seed", "3"]
    if name == "vectors":
        output = sample.main([*common, "--num_points", "64", "--num_kl_points", "100"])
        drawn, expected = (np.load(path / "samples.npy") for path in (output, root / "expected" / name))
        np.testing.assert_allclose(drawn, expected, rtol=0 if is_same_platform(root) else 1e-4)
        return
    output = sample.main([*common, "--num_images", "16"])
    now, before = (np.asarray(Image.open(path / "grid-t0.70.png")) for path in (output, root / "expected" / name))
    # A row a class: 0.1.0 also drew the last image, alone in a column of grey.
    assert now.shape[1] / before.shape[1] > 0.8
    assert (now != before[:, : now.shape[1]]).mean() <= (0 if is_same_platform(root) else 0.001)
