"""Anomaly scores: likelihood, typicality, correction for complexity, AUROC, and what the stage writes."""

import csv
import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import perturb, run_ranks, tiny_glow, write_images
from PIL import Image
from saved_runs import save_run

from glow.config import PrepareRun
from glow.data.prepare.opening import Place
from glow.data.prepare.writer import prepare
from glow.data.read.reader import SplitReader
from glow.evaluation.anomaly import Auroc
from pipelines import evaluate as evaluate_stage
from pipelines import score as score_stage

FILES = {"scores.csv", "scores.json", "scores.png"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset):
    model = tiny_glow(torch.float32)
    perturb(model, 0.02, seed=3)
    return save_run(tmp_path_factory.mktemp("runs") / "tiny", dataset, model)


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
    """A folder of 9 images of one colour each, without classes."""
    folder = tmp_path_factory.mktemp("outliers") / "constant"
    folder.mkdir()
    for number in range(9):
        Image.new("RGB", (8, 8), (20 * number, 100, 200)).save(folder / f"{number}.png")
    return folder


def score(run, data, output, *extra):
    score_stage.main(["--checkpoint", str(run), "--data", str(data), "--output", str(output), *extra])
    with (output / "scores.csv").open() as file:
        return json.loads((output / "scores.json").read_text()), list(csv.DictReader(file))


def test_likelihood_is_that_of_an_evaluation(run, dataset, tmp_path):
    evaluate_stage.main(
        ["--checkpoint", str(run), "--data", str(dataset), "--output", str(tmp_path / "report"), "--seed", "5"]
    )
    with (tmp_path / "report/per_image.csv").open() as file:
        expected = [(row["key"], row["bits_per_dim"]) for row in csv.DictReader(file)]
    _, rows = score(run, dataset, tmp_path / "scores", "--seed", "5", "--batch_size", "3")
    assert [(row["key"], row["bits_per_dim"]) for row in rows] == expected


def test_likelihood_of_a_class_conditional_model_is_that_without_label(dataset, constant, tmp_path):
    changes = {"class_conditional": True, "num_classes": 2}
    run = save_run(tmp_path / "run", dataset, tiny_glow(torch.float32, **changes), **changes)
    evaluate_stage.main(["--checkpoint", str(run), "--data", str(dataset), "--output", str(tmp_path / "report")])
    with (tmp_path / "report/per_image.csv").open() as file:
        expected = [float(row["bits_per_dim_without_label"]) for row in csv.DictReader(file)]
    _, rows = score(run, dataset, tmp_path / "scores", "--outliers", str(constant))
    assert [float(row["bits_per_dim"]) for row in rows[:23]] == pytest.approx(expected, abs=1e-12)
    assert len(rows) == 23 + 9  # the outliers have no labels at all


def test_typical_likelihood_is_the_mean_of_the_validation_images_of_the_training(run, dataset, tmp_path):
    _, validation = score(run, dataset, tmp_path / "validation", "--split", "validation")
    typical = np.mean([float(row["bits_per_dim"]) for row in validation])
    summary, rows = score(run, dataset, tmp_path / "test")
    assert summary["reference"]["name"] == "tiny:validation"
    assert summary["reference"]["num_images"] == 13
    assert summary["reference"]["bits_per_dim"]["mean"] == pytest.approx(typical, abs=1e-12)
    expected = [abs(float(row["bits_per_dim"]) - typical) for row in rows]
    assert [float(row["typicality"]) for row in rows] == pytest.approx(expected, abs=1e-12)
    other, _ = score(run, dataset, tmp_path / "train", "--reference", f"{dataset}:train", "--num_images", "11")
    assert (other["reference"]["name"], other["reference"]["num_images"]) == ("tiny:train", 11)


def test_outliers_are_rows_too_and_have_an_auroc_of_each_score(run, dataset, constant, tmp_path, capsys):
    summary, rows = score(run, dataset, tmp_path / "scores", "--outliers", str(constant))
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "scores")
    assert {path.name for path in (tmp_path / "scores").iterdir()} == FILES
    keys = {name: [row["key"] for row in rows if row["set"] == name] for name in ("tiny:test", "constant")}
    assert keys["tiny:test"] == SplitReader(dataset, "test").keys()
    assert sorted(keys["constant"]) == [str(number) for number in range(9)]
    (outliers,) = summary["outliers"]
    for name in ("bits_per_dim", "typicality", "complexity_corrected"):
        values = {kind: [float(row[name]) for row in rows if row["set"] == kind] for kind in keys}
        area = Auroc.of(values["tiny:test"], values["constant"])
        assert outliers["auroc"][name] == dataclasses.asdict(area)
        assert outliers[name]["mean"] == pytest.approx(np.mean(values["constant"]), abs=1e-12)
    for row in rows:
        corrected = float(row["bits_per_dim"]) - float(row["code_bits_per_dim"])
        assert float(row["complexity_corrected"]) == pytest.approx(corrected, abs=1e-12)
        assert row["code"] in ("png", "webp")
    with Image.open(tmp_path / "scores/scores.png") as picture:
        assert picture.width > 1000


def score_main(arguments):
    score_stage.main(arguments)


def test_two_processes_write_what_one_writes(run, dataset, constant, tmp_path):
    extra = ["--outliers", str(constant), "--num_images", "21", "--batch_size", "4"]
    score(run, dataset, tmp_path / "alone", *extra)
    arguments = ["--checkpoint", str(run), "--data", str(dataset), "--output", str(tmp_path / "pair"), *extra]
    run_ranks(score_main, 2, arguments)
    for name in FILES:
        assert (tmp_path / "pair" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    keys = [line.split(",")[1] for line in (tmp_path / "pair/scores.csv").read_text().splitlines()[1:]]
    assert len(keys) == len(set(keys)) == 21 + 9


def test_folder_is_scored_as_it_is_or_resized_on_request(run, constant, tmp_path):
    summary, rows = score(run, constant, tmp_path / "scores")
    assert summary["data"]["split"] is None
    assert len(rows) == 9
    large = write_images(tmp_path / "large", 5, (1, 12, 10))
    _, rows = score(run, large, tmp_path / "resized", "--size", "8", "--color", "rgb")
    assert len(rows) == 5


def test_sets_of_one_name_are_called_by_their_location(run, dataset, constant, tmp_path):
    other = tmp_path / "constant"
    shutil.copytree(constant, other)
    _, rows = score(run, dataset, tmp_path / "scores", "--outliers", str(constant), "--outliers", str(other))
    assert {row["set"] for row in rows} == {f"{dataset}:test", str(constant), str(other)}


def test_default_output_is_in_the_run_directory(run, dataset, constant, capsys):
    few = ["--num_images", "2"]
    for data, extra, name in (
        (dataset, [], "step-00000007-test"),
        (f"{dataset}:train", few, "step-00000007-train-num_images-2"),
        (constant, few, "step-00000007-constant-num_images-2"),
        (dataset, [*few, "--seed", "3"], "step-00000007-test-num_images-2-seed-3"),
    ):
        path = score_stage.main(["--checkpoint", str(run), "--data", str(data), *extra])
        assert path == run / "scores" / name
        assert (path / "scores.json").is_file()
    # A path may be long.
    path = score_stage.main(["--checkpoint", str(run), "--data", str(dataset), "--outliers", str(constant), *few])
    assert path.name.startswith("step-00000007-test-outliers-")
    assert len(path.name) <= 120


def test_cells_that_a_spreadsheet_would_compute_are_text(run, dataset, tmp_path):
    (tmp_path / "@sum(1)").mkdir()
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "@sum(1)/-1+1.png")
    _, rows = score(run, dataset, tmp_path / "out", "--num_images", "1", "--outliers", str(tmp_path / "@sum(1)"))
    assert (rows[1]["set"], rows[1]["key"]) == ("'@sum(1)", "'-1-1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{data}", ("{data}", "test")),
        ("{data}:validation", ("{data}", "validation")),
        ("photos/", ("photos", None)),
        ("torchvision:SVHN:test", ("torchvision:SVHN:test", None)),
        ("http://host:80/data:train", ("http://host:80/data", "train")),
        ("http://host:80/data", ("http://host:80/data", "test")),
    ],
)
def test_place_is_read_from_what_a_user_writes(dataset, text, expected):
    location, split = expected
    place = Place.parse(text.format(data=dataset), "test")
    assert place == Place(location.format(data=dataset), split)


def test_images_of_another_shape_are_one_line_and_exit_status_1(run, dataset, tmp_path):
    grey, output = write_images(tmp_path / "grey", 6, (1, 4, 4)), tmp_path / "scores"
    arguments = ["--checkpoint", run, "--data", dataset, "--output", output, "--outliers", grey]
    command = [sys.executable, "-m", "pipelines.score", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {grey}: images of shape [1, 4, 4], but the model is for [3, 8, 8]; give --size '[8, 8]' --color rgb\n"
    )
    assert not output.exists()


def test_model_without_finite_likelihood_writes_nothing(dataset, tmp_path):
    model = tiny_glow(torch.float32)
    with torch.no_grad():
        model.chain[-1].bijector.log_scale[0] = math.nan
    run = save_run(tmp_path / "run", dataset, model)
    with pytest.raises(ValueError, match="23 of 23 images have no finite likelihood"):
        score(run, dataset, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--split", "dev"], "data set tiny has no split 'dev'; it has train, validation, test"),
        (["--outliers", "{data}:dev"], "has no split 'dev'"),
        (["--reference", "{folder}:validation"], "not a data set .no dataset.json., so it has no split 'validation'"),
        (["--outliers", "nowhere"], "nowhere: no such folder, zip or tar"),
        (["--size", "8"], "size, color: leave them out; all these images are prepared already"),
        (["--outliers", "{data}", "--outliers", "{data}"], "outliers: .* is not allowed; give each set once"),
        (["--outliers", "{data}"], "outliers: .* and the data name the same images twice"),
        (["--outliers", "{data}:train", "--outliers", "{data}/:train"], "and the data name the same images twice"),
        (["--num_images", "0"], "num_images: 0 is not allowed; give 1 or more"),
    ],
)
def test_mistakes_are_named(run, dataset, constant, tmp_path, extra, message):
    extra = [word.format(data=dataset, folder=constant) for word in extra]
    with pytest.raises(ValueError, match=message):
        score(run, dataset, tmp_path / "scores", *extra)
    assert not (tmp_path / "scores").exists()


def test_one_image_without_finite_likelihood_is_named(run, dataset, tmp_path, monkeypatch):
    likelihoods = score_stage.score_split

    def spoiled(*arguments):
        for number, image in enumerate(likelihoods(*arguments)):
            yield dataclasses.replace(image, bits_per_dim=math.inf) if number == 5 else image

    monkeypatch.setattr(score_stage, "score_split", spoiled)
    key = SplitReader(dataset, "test").keys()[5]
    with pytest.raises(ValueError, match=f"1 of 23 images have no finite likelihood, the first is {key}; nothing is"):
        score(run, dataset, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("trained_on", ["pipe:touch {}", "nowhere"])
def test_reference_of_a_training_that_cannot_be_opened_is_asked_for(dataset, tmp_path, trained_on):
    run = save_run(tmp_path / "run", trained_on, tiny_glow(torch.float32))
    with pytest.raises(ValueError, match="which the model was trained on, cannot be opened; name in-distribution"):
        score(run, dataset, tmp_path / "scores")
    summary, _ = score(run, dataset, tmp_path / "scores", "--reference", str(dataset))
    assert summary["reference"]["name"] == "tiny:validation"


def test_changed_shard_is_noticed(run, tmp_path):
    source = write_images(tmp_path / "images", 6)
    prepare(PrepareRun([str(source)], str(tmp_path / "data"), num_workers=0))
    shard = Path(tmp_path / "data/train-00000.tar")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"train-00000\.tar: damaged or changed"):
        score(run, tmp_path / "data", tmp_path / "scores", "--split", "train")
