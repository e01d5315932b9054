"""Class-conditional models: trained with labels, sampled by class, and asked for the class of an image."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import run_ranks, write_images
from PIL import Image
from training_runs import assert_same_checkpoint, comparable, options, train_and

from glow.config import PrepareRun
from glow.data.prepare.writer import prepare
from glow.data.read.loader import eval_batches
from glow.data.read.reader import SplitReader
from glow.evaluation.classes import class_posteriors, reliability, summarize_classes
from glow.evaluation.likelihood import ImageScore
from glow.evaluation.report import Evaluation, summarize
from glow.sampling.images import Draw, image_grid, sample_images
from glow.training.checkpoints.models import load_model
from glow.training.metrics import read_metrics
from pipelines import evaluate as evaluate_stage
from pipelines import sample as sample_stage
from pipelines import train as train_stage


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Noisy images of two classes, dark and bright: 60 train, 20 validation, 40 test."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for number in range(120):
        kind = number % 2
        path = root / "images" / ("dark", "bright")[kind] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((rng.normal(80 + 90 * kind, 25, (8, 8, 3))).clip(0, 255).astype(np.uint8)).save(path)
    output = root / "data"
    prepare(PrepareRun([str(root / "images")], str(output), validation="20", test="40", num_workers=0))
    return output


@pytest.fixture(scope="module")
def run(colours, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    extra = ("--train.num_steps", "60", "--optimizer.lr", "0.01", "--train.validate_every", "60")
    train_stage.main(options(colours, run, *extra, "--model.class_conditional", "true"))
    return run


def test_number_of_classes_is_that_of_the_data(run):
    assert load_model(run).num_classes == 2


@pytest.fixture
def renamed(colours, tmp_path):
    """The same images, with the names of the classes exchanged."""
    copy = shutil.copytree(colours, tmp_path / "renamed")
    manifest = json.loads((copy / "dataset.json").read_text())
    manifest["classes"].reverse()
    (copy / "dataset.json").write_text(json.dumps(manifest))
    return copy


def test_other_classes_than_those_of_the_training_are_refused(run, renamed):
    assert json.loads((run / "checkpoints/step-00000060/state.json").read_text())["classes"] == ["bright", "dark"]
    message = "renamed: class 0 is 'dark', but the model was trained with 'bright' as class 0"
    with pytest.raises(ValueError, match=message):
        evaluate_stage.main(["--checkpoint", str(run), "--data", str(renamed)])
    with pytest.raises(ValueError, match=message):
        train_stage.main(options(renamed, run, "--model.class_conditional", "true", "--train.num_steps", "61"))


def test_report_describes_the_classes(colours, run, tmp_path):
    output = tmp_path / "report"
    arguments = ["--checkpoint", str(run), "--data", str(colours), "--baselines", "false", "--output", str(output)]
    evaluate_stage.main(arguments)
    summary = json.loads((output / "bpd.json").read_text())
    classes = summary["classes"]
    assert summary["class_conditional"]
    assert classes["num_classes"] == 2
    assert classes["accuracy"] > 0.9
    with (output / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert np.mean([row["label"] == row["predicted"] for row in rows]) == pytest.approx(classes["accuracy"])
    # Independently: the model, given either label, on the noise of the evaluation.
    model, reader = load_model(run), SplitReader(colours, "test")
    for row, batch in zip(rows, eval_batches(reader, 1, 0), strict=True):
        with torch.no_grad():
            given = [model(*batch.inputs, torch.tensor([label])).double().item() for label in (0, 1)]
        bits = [-value / (192 * math.log(2)) for value in given]
        assert float(row["bits_per_dim"]) == pytest.approx(bits[int(row["label"])], abs=1e-5)
        mixture = -(np.logaddexp(*given) - math.log(2)) / (192 * math.log(2))
        assert float(row["bits_per_dim_without_label"]) == pytest.approx(mixture, abs=1e-5)
    mean = np.mean([float(row["bits_per_dim_without_label"]) for row in rows])
    assert classes["bits_per_dim_without_label"] == pytest.approx(mean)
    text = (output / "report.html").read_text()
    assert "given their class" in text
    assert "by summing over 2 equally likely classes" in text
    evaluate_stage.main([*arguments, "--classes", "false"])
    assert json.loads((output / "bpd.json").read_text())["classes"] is None


def scores_of(log_probs, labels):
    return [
        ImageScore(str(i), label, 0.0, (), tuple(row))
        for i, (row, label) in enumerate(zip(log_probs, labels, strict=True))
    ]


def test_posterior_accuracy_and_calibration_are_those_of_their_formulas():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.38, 0.62], [0.35, 0.65]])
    scores = scores_of((np.log(probabilities) - 5000).tolist(), [0, 1, 1, 1])
    assert np.allclose(class_posteriors(scores), probabilities)
    bins = reliability(scores)
    assert bins.counts.tolist() == [0] * 6 + [2, 0, 0, 2]
    assert bins.accuracies[[6, 9]].tolist() == [1.0, 0.5]
    expected = (2 * abs(0.95 - 0.5) + 2 * abs(0.635 - 1)) / 4
    assert bins.expected_calibration_error == pytest.approx(expected)
    summary = summarize_classes(scores, 10)
    assert summary["accuracy"] == 0.75
    assert summary["bits_per_dim_without_label"] == pytest.approx((5000 + math.log(2)) / (10 * math.log(2)))


def test_samples_are_of_the_class_that_is_asked_for(colours, run, tmp_path):
    model = load_model(run)
    bright = SplitReader(colours, "test").dataset.classes.index("bright")
    for label in (0, 1):
        images = torch.cat(list(sample_images(model, range(20), 0.7, Draw(0, label)))).float()
        assert (images.mean() > 125) == (label == bright)
    # Without a label the classes take turns: image i is what it is when its class is asked for.
    turns = torch.cat(list(sample_images(model, range(3, 7), 0.7, Draw(0))))
    odd = torch.cat(list(sample_images(model, range(3, 7), 0.7, Draw(0, 1))))
    even = torch.cat(list(sample_images(model, range(3, 7), 0.7, Draw(0, 0))))
    assert torch.equal(turns[0::2], odd[0::2])
    assert torch.equal(turns[1::2], even[1::2])


def test_grid_has_a_row_for_each_class(run, tmp_path):
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).repeat(1, 3, 48, 48)
    grid = image_grid(images, num_rows=2)
    assert [[grid[25 + 49 * row, 25 + 49 * column, 0] for column in range(3)] for row in range(2)] == [
        [0, 2, 4],
        [1, 3, 127],
    ]
    output = tmp_path / "samples"
    arguments = ["--checkpoint", str(run), "--temperatures", "0.7", "--num_images", "7", "--output", str(output)]
    sample_stage.main(arguments)
    grid = np.asarray(Image.open(output / "grid-t0.70.png")).astype(float)
    images = torch.cat(list(sample_images(load_model(run), range(6), 0.7, Draw(0))))  # whole rows: three columns
    pictures = image_grid(images, num_rows=2)
    names = grid[:, : -pictures.shape[1]]
    assert np.array_equal(grid[:, -pictures.shape[1] :], pictures)
    for row in np.array_split(names, 2):  # black letters, "bright" and "dark"
        assert row.min() < 50
        assert (row == 255).mean() > 0.5
    rows = np.array_split(pictures.astype(float), 2)
    labelled = json.loads((output / "samples.json").read_text())
    assert labelled["label"] is None
    assert abs(rows[0].mean() - rows[1].mean()) > 30
    sample_stage.main([*arguments, "--label", "1"])
    assert json.loads((output / "samples.json").read_text())["label"] == 1


def test_labels_that_do_not_fit_are_refused(colours, run, dataset, tmp_path):
    with pytest.raises(ValueError, match="label: 2, but the model has classes 0 to 1"):
        sample_stage.main(["--checkpoint", str(run), "--label", "2", "--output", str(tmp_path / "x")])
    plain = tmp_path / "plain"
    train_stage.main(options(dataset, plain))
    with pytest.raises(ValueError, match="label: 0, but the model has no classes"):
        sample_stage.main(["--checkpoint", str(plain), "--label", "0"])
    unlabelled = tmp_path / "unlabelled"
    folder = write_images(tmp_path / "images", 40, classes=1) / "class0"
    prepare(PrepareRun([str(folder)], str(unlabelled), validation="4", test="4", num_workers=0))
    with pytest.raises(ValueError, match=r"model\.class_conditional: true, but .* has no labels"):
        train_stage.main(options(unlabelled, tmp_path / "y", "--model.class_conditional", "true"))
    arguments = ["--checkpoint", str(run), "--data", str(unlabelled), "--baselines", "false"]
    with pytest.raises(ValueError, match="class_conditional, but the data set has no labels"):
        evaluate_stage.main(arguments)
    extra = ("--model.class_conditional", "true", "--model.num_classes", "1")
    with pytest.raises(ValueError, match=r"model\.num_classes: 1, but .* has 2"):
        train_stage.main(options(dataset, tmp_path / "z", *extra))


EVERYTHING = (
    *(
        "--model.class_conditional",
        "true",
        "--model.dequantization",
        "variational",
        "--model.dequantization_steps",
        "2",
    ),
    *("--model.coupling", "mixture", "--model.num_mixtures", "2", "--model.network", "gated"),
    *("--model.num_network_blocks", "1", "--optimizer.name", "sgd", "--optimizer.lr", "0.02"),
)


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_train_everything_at_once_like_one(dataset, tmp_path, world):
    alone, several = tmp_path / "alone", tmp_path / "several"
    train_stage.main(options(dataset, alone, *EVERYTHING))
    run_ranks(train_stage.main, world, options(dataset, several, *EVERYTHING))
    for one, other in zip(comparable(alone), comparable(several), strict=True):
        assert one["train/bits_per_dim"] == pytest.approx(other["train/bits_per_dim"], rel=1e-5)
    assert read_metrics(alone)[-1]["train/bits_per_dim"] < read_metrics(alone)[0]["train/bits_per_dim"]


def test_stopped_training_of_everything_at_once_goes_on_bitwise(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("glow.training.stop.LOOK_S", 0)
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    train_and(options(dataset, run, *EVERYTHING), 5, (run / "stop").touch)
    assert read_metrics(run)[-1]["step"] == 5
    for output in (run, undisturbed):
        train_stage.main(options(dataset, output, *EVERYTHING))
    assert_same_checkpoint(run / "checkpoints/step-00000008", undisturbed / "checkpoints/step-00000008")
    assert comparable(run) == comparable(undisturbed)


def test_mistake_leaves_earlier_samples_alone(run, tmp_path):
    arguments = ["--checkpoint", str(run), "--temperatures", "0.7", "--num_images", "4", "--output", str(tmp_path)]
    sample_stage.main([*arguments, "--save_images", "true"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="label: 99, but the model has classes 0 to 1"):
        sample_stage.main([*arguments, "--label", "99"])
    with pytest.raises(ValueError, match="drawn from"):
        sample_stage.main([*arguments, "--merge", "true", "--label", "1"])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_data_of_more_classes_than_the_model_has_is_refused(run, tmp_path):
    folder = write_images(tmp_path / "images", 60, classes=3)
    prepare(PrepareRun([str(folder)], str(tmp_path / "three"), validation="4", test="8", num_workers=0))
    arguments = ["--checkpoint", str(run), "--data", str(tmp_path / "three"), "--baselines", "false"]
    with pytest.raises(ValueError, match=r"3 classes, but the model has 2"):
        evaluate_stage.main(arguments)


def test_image_whose_probability_given_a_class_is_not_finite_is_named():
    scores = scores_of([[-5.0, -6.0], [-5.0, math.nan]], [0, 1])
    summary = summarize(Evaluation(scores, {"num_dims": 3}))
    assert not summary["valid"]
    assert summary["invalid_keys"] == ["1"]
