"""The evaluate stage: a report that is the same for any batch size and number of processes, and honest."""

import csv
import dataclasses
import datetime
import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import run_ranks, tiny_config, tiny_glow, write_images
from PIL import Image
from saved_runs import save_moved_run

import glow
from glow.config import PrepareRun, TrainRun
from glow.data.prepare.writer import prepare
from glow.data.read.reader import SplitReader
from glow.evaluation.likelihood import Estimate
from glow.evaluation.report import verdict
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.state import State
from glow.training.checkpoints.writing import Snapshot
from pipelines import evaluate as evaluate_stage
from pipelines import sample as sample_stage


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_moved_run(tmp_path_factory.mktemp("runs") / "tiny")


def evaluate(run, dataset, output, *extra):
    evaluate_stage.main(["--checkpoint", str(run), "--data", str(dataset), "--output", str(output), *extra])
    with (output / "per_image.csv").open() as file:
        return json.loads((output / "bpd.json").read_text()), list(csv.DictReader(file))


def test_every_figure_is_bitwise_the_same_for_batch_sizes_1_7_and_64(run, dataset, tmp_path):
    results = [evaluate(run, dataset, tmp_path / size, "--batch_size", size) for size in ("1", "7", "64")]
    assert results[0] == results[1] == results[2]
    files = [(tmp_path / size / "report.html").read_text() for size in ("1", "7", "64")]
    assert files[0] == files[1] == files[2]


def evaluate_main(arguments):
    evaluate_stage.main(arguments)


def test_two_processes_write_the_report_of_one(run, dataset, tmp_path):
    alone = evaluate(run, dataset, tmp_path / "alone")
    arguments = ["--checkpoint", str(run), "--data", str(dataset), "--output", str(tmp_path / "pair")]
    run_ranks(evaluate_main, 2, arguments)
    assert json.loads((tmp_path / "pair" / "bpd.json").read_text()) == alone[0]


def test_precision_of_a_measurement_is_chosen_and_recorded(run, dataset, tmp_path):
    exact, half = (evaluate(run, dataset, tmp_path / dtype, "--dtype", dtype)[0] for dtype in ("float32", "bf16"))
    assert [summary["dtype"] for summary in (exact, half)] == ["float32", "bf16"]
    assert exact["checkpoint"]["mixed_precision"] == "no"
    assert 0 < abs(half["bits_per_dim"] - exact["bits_per_dim"]) < 0.01
    report = evaluate_stage.main(["--checkpoint", str(run), "--data", str(dataset), "--dtype", "bf16"])
    assert report.name == "step-00000007-test-dtype-bf16"


def test_report_says_what_was_measured(run, dataset, tmp_path):
    sample_stage.main(["--checkpoint", str(run), "--temperatures", "[0, 0.7]", "--num_images", "4"])
    summary, rows = evaluate(run, dataset, tmp_path / "report")
    manifest = json.loads((dataset / "dataset.json").read_text())
    assert summary["dataset"] == {
        "name": "tiny", "split": "test", "num_images": 23, "sha256": manifest["splits"]["test"]["sha256"],
    }  # fmt: skip
    state = json.loads((run / "checkpoints/step-00000007/state.json").read_text())
    assert summary["checkpoint"]["sha256"] == state["sha256"]["ema.safetensors"]
    assert summary["checkpoint"]["step"] == 7
    stated = {
        "num_images": 23, "num_dims": 192, "num_bits": 8, "bound": "elbo", "num_noise_samples": 1,
        "weights": "ema", "dtype": "float32",
    }  # fmt: skip
    assert {key: summary[key] for key in stated} == stated
    assert summary["valid"] is True
    values = [float(row["bits_per_dim"]) for row in rows]
    assert summary["bits_per_dim"] == pytest.approx(np.mean(values), abs=1e-12)
    assert summary["standard_error"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(23), abs=1e-12)
    parts = summary["parts"]
    assert parts["dequantisation"] + sum(parts["levels"]) == pytest.approx(summary["bits_per_dim"], abs=1e-9)
    assert summary["invertibility"]["max_abs_error"] < 1e-4
    assert sorted(row["key"] for row in rows) == sorted(SplitReader(dataset, "test").keys())
    html = (tmp_path / "report" / "report.html").read_text()
    assert f"{summary['bits_per_dim']:.4f} ± {summary['standard_error']:.4f}" in html
    assert "temperature 0.70" in html
    assert "http" not in html  # one file, offline
    assert "real images: the first 23 of this split" in html
    assert html.count("data:image/png;base64,") == 10 + 3
    assert "Glow with 2 levels of 2 steps" in html.replace("\n    ", " ")
    assert f"glow {glow.__version__}" in html
    assert datetime.date.today().isoformat() in html
    assert "Only 23 images were measured" in html
    with Image.open(run / "samples/step-00000007/grid-t0.00.png") as tile:
        assert tile.size == (6 * 8, 6 * 8)  # all images are the same: one is shown, 6 times as large


def test_verdict_is_one_sentence():
    def of(*baselines):
        names = ("Gaussian", "histogram")
        values = ({"bits_per_dim": b, "model_minus_baseline": d, "standard_error": e} for b, d, e in baselines)
        return verdict({"baselines": dict(zip(names, values, strict=False))})

    assert of((5.0, -1.0, 0.1), (4.5, -0.5, 0.1)) == (
        "The model is better than the best baseline (histogram) by 0.500 bits/dim."
    )
    assert of((5.0, 0.25, 0.1), (6.0, -1, 0.1)).startswith(
        "Warning: a simple baseline (Gaussian) is better by 0.250 bits/dim;"
    )
    for error in (None, 0.2):
        assert of((5.0, -0.3, error)).startswith("These images do not tell whether the model is better")
    assert of((None, None, None)).startswith("No baseline was measured")


def test_first_images_are_measured_and_the_folder_says_so(run, dataset, monkeypatch):
    arguments = ["--checkpoint", str(run), "--data", str(dataset), "--num_images", "9"]
    output = evaluate_stage.main(arguments)
    assert output.name == "step-00000007-test-num_images-9"
    few, all_rows = (
        list(csv.DictReader((folder / "per_image.csv").read_text().splitlines()))
        for folder in (output, evaluate_stage.main(arguments[:4]))
    )
    assert few == all_rows[:9]
    summary = json.loads((output / "bpd.json").read_text())
    assert (summary["num_images"], summary["dataset"]["num_images"]) == (9, 23)
    assert "the first 9 of 23 images" in (output / "report.html").read_text()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.jsonl", '{"step": 1}\n[]\n{"step": 2}\n', r"metrics\.jsonl: line 2 is not a JSON object with a step"),
        ("metrics.jsonl", '{"step": "1"}\n{"step": 2}\n', r"metrics\.jsonl: line 1 is not a JSON object with a step"),
        ("metrics.jsonl", '{"step": 1, "a": {}}\n{"step": 2}\n', r"line 1: a is neither a number nor a list of texts"),
        ("samples/step-00000007/samples.json", "[1]", r"samples\.json: \[1\] is not allowed; give a mapping"),
        ("samples/step-00000007/samples.json", '{"weights": 3}', r"samples\.json\.label is missing"),
        (
            "samples/step-00000007/samples.json",
            '{"weights": "ema", "label": null, "temperatures": ["0.7"]}',
            r"samples\.json\.temperatures\[0\]: '0\.7' is not allowed; give a number",
        ),
    ],
)
def test_damaged_files_of_a_run_are_named(run, dataset, tmp_path, file, content, message):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / file).parent.mkdir(parents=True, exist_ok=True)
    (copy / file).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        evaluate(copy, dataset, tmp_path / "report")
    assert "\n" not in str(error.value)


def test_raw_weights_give_other_figures(run, dataset, tmp_path):
    averaged = evaluate(run, dataset, tmp_path / "ema")[0]
    raw = evaluate(run, dataset, tmp_path / "raw", "--weights", "raw")[0]
    assert raw["bits_per_dim"] != averaged["bits_per_dim"]
    assert raw["checkpoint"]["sha256"] != averaged["checkpoint"]["sha256"]


def test_one_image_without_finite_likelihood_makes_the_report_invalid(run, dataset, tmp_path, monkeypatch):
    score = evaluate_stage.score_split

    def spoiled(*arguments):
        for number, image in enumerate(score(*arguments)):
            yield dataclasses.replace(image, bits_per_dim=math.nan) if number == 5 else image

    monkeypatch.setattr(evaluate_stage, "score_split", spoiled)
    with pytest.raises(ValueError, match="invalid: 1 images have no finite likelihood"):
        evaluate(run, dataset, tmp_path / "report")
    summary = json.loads((tmp_path / "report" / "bpd.json").read_text())
    assert summary["valid"] is False
    assert summary["bits_per_dim"] is None
    assert summary["invalid_keys"] == [SplitReader(dataset, "test").keys()[5]]
    assert "Invalid." in (tmp_path / "report" / "report.html").read_text()


def test_model_that_is_broken_makes_the_report_invalid_and_valid_json(dataset, tmp_path):
    model = tiny_glow(torch.float32)
    with torch.no_grad():
        model.chain[-1].bijector.log_scale[0] = math.nan
    path = tmp_path / "run"
    tensors = {"model": model.state_dict(), "ema": model.state_dict()}
    state = State(step=1, images_seen=12)
    CheckpointManager(path).save(Snapshot(tensors, TrainRun("x", tiny_config()), state))
    with pytest.raises(ValueError, match="invalid: 23 images have no finite likelihood"):
        evaluate(path, dataset, tmp_path / "report")
    text = (tmp_path / "report" / "bpd.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["invertibility"]["max_abs_error"] is None


def test_changed_shard_is_noticed(run, dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shard = copy / "test-00001.tar"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"test-00001\.tar: damaged or changed: its sha256 is not the one in dataset\.json"
    ):
        evaluate(run, copy, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_report_shows_no_grids_of_other_weights(run, dataset, tmp_path):
    arguments = ["--checkpoint", str(run), "--temperatures", "[0.33]", "--num_images", "4", "--weights", "raw"]
    assert sample_stage.main(arguments).name == "step-00000007-weights-raw"
    evaluate(run, dataset, tmp_path / "ema")
    evaluate(run, dataset, tmp_path / "raw", "--weights", "raw")
    assert "temperature 0.33" not in (tmp_path / "ema/report.html").read_text()
    assert "temperature 0.33" in (tmp_path / "raw/report.html").read_text()


def test_interrupted_sampling_leaves_nothing_for_a_report(run, dataset, tmp_path, monkeypatch):
    folder = run / "samples" / "step-00000007"
    sample_stage.main(["--checkpoint", str(run), "--temperatures", "[0.44]", "--num_images", "4"])
    monkeypatch.setattr("glow.sampling.files.image_grid", lambda images, rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample_stage.main(["--checkpoint", str(run), "--temperatures", "[0.44]", "--num_images", "5"])
    assert list(folder.glob("*.*")) == []
    evaluate(run, dataset, tmp_path / "report")
    assert "temperature 0.44" not in (tmp_path / "report/report.html").read_text()


def test_data_of_another_shape_and_unknown_split_are_refused(run, dataset, tmp_path):
    source = write_images(tmp_path / "images", 6, (1, 4, 4))
    prepare(PrepareRun([str(source)], str(tmp_path / "grey"), num_workers=0))
    with pytest.raises(ValueError, match=r"images of shape \[1, 4, 4\], but the model is for \[3, 8, 8\]"):
        evaluate(run, tmp_path / "grey", tmp_path / "report", "--split", "train")
    with pytest.raises(ValueError, match="has no split 'dev'"):
        evaluate(run, dataset, tmp_path / "report", "--split", "dev")


def test_paired_differences_are_reported_with_their_error(run, tmp_path):
    source = write_images(tmp_path / "images", 400)
    prepare(PrepareRun([str(source)], str(tmp_path / "many"), test="50", num_workers=0))
    summary, rows = evaluate(run, tmp_path / "many", tmp_path / "report")
    for name in ("Gaussian", "histogram of each pixel"):
        differences = [float(row["bits_per_dim"]) - float(row[name]) for row in rows]
        reported = summary["baselines"][name]
        assert reported["model_minus_baseline"] == pytest.approx(np.mean(differences), abs=1e-9)
        assert reported["standard_error"] == pytest.approx(Estimate.of(differences).standard_error, abs=1e-9)


def test_gaussian_that_cannot_be_fitted_is_left_out_with_its_reason(run, dataset, tmp_path):
    summary, _ = evaluate(run, dataset, tmp_path / "report")
    assert summary["baselines"]["Gaussian"] == {
        "bits_per_dim": None, "reason": "only 97 training images for 192 dimensions",
    }  # fmt: skip


def test_paths_are_printed_as_they_were_given(run, dataset, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    evaluate_stage.main(["--checkpoint", "tiny", "--data", str(dataset)])
    assert capsys.readouterr().out.splitlines()[-1] == "tiny/report/step-00000007-test/report.html"
    monkeypatch.chdir(run / "checkpoints/step-00000007")
    output = evaluate_stage.main(["--checkpoint", ".", "--data", str(dataset)])
    assert output == run.resolve() / "report/step-00000007-test"
