"""Evaluation and sampling: the same for any batch size and number of processes, and an honest report."""

import csv
import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import perturb, run_ranks, tiny_config, tiny_glow, write_images
from PIL import Image

from glow.config import PrepareRun, TrainRun
from glow.data.prepare.writer import prepare
from glow.data.read.batch import Batch, Share
from glow.data.read.loader import eval_batches
from glow.data.read.reader import SplitReader
from glow.evaluation.baselines import GaussianBaseline, HistogramBaseline
from glow.evaluation.health import flow_health
from glow.evaluation.likelihood import Bound, Estimate, round_trip_error, score_split
from glow.models.glow import standard_normal_log_prob
from glow.models.images import bits_per_dim
from glow.sampling.groups import aligned_ranges, group_size
from glow.sampling.images import Draw, image_grid, sample_images
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.writing import Snapshot
from pipelines import evaluate as evaluate_stage
from pipelines import sample as sample_stage


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset):
    """A run directory with a checkpoint of a tiny model that was not trained, only moved a little."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    model = tiny_glow(torch.float32)
    perturb(model, 0.02, seed=3)
    averaged = {name: value.clone() for name, value in model.state_dict().items()}
    perturb(model, 0.02, seed=4)
    state = {"step": 7, "images_seen": 84, "validation_bits_per_dim": 5.0}
    CheckpointManager(path).save(
        Snapshot({"model": model.state_dict(), "ema": averaged}, TrainRun(str(path), tiny_config()), state)
    )
    lines = [{"step": n, "train/bits_per_dim": 8 - n / 9, "validation/bits_per_dim": 8.1 - n / 9} for n in range(1, 8)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def evaluate(run, dataset, output, *extra):
    evaluate_stage.main(["--checkpoint", str(run), "--data", str(dataset), "--output", str(output), *extra])
    with (output / "per_image.csv").open() as file:
        return json.loads((output / "bpd.json").read_text()), list(csv.DictReader(file))


def test_every_figure_is_bitwise_the_same_for_batch_sizes_1_7_and_64(run, dataset, tmp_path):
    results = [evaluate(run, dataset, tmp_path / size, "--batch_size", size) for size in ("1", "7", "64")]
    assert results[0] == results[1] == results[2]
    files = [(tmp_path / size / "report.html").read_text() for size in ("1", "7", "64")]
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("world", [2, 4])
def test_figures_do_not_depend_on_the_number_of_processes(dataset, world):
    model, reader = tiny_glow(torch.float32), SplitReader(dataset, "test")
    alone = list(score_split(model, reader, 64, Bound("elbo", 1, 0)))
    shared = [
        score
        for rank in range(world)
        for score in score_split(model, reader, 5, Bound("elbo", 1, 0), Share(rank, world))
    ]
    assert shared == alone


def evaluate_main(arguments):
    evaluate_stage.main(arguments)


def test_two_processes_write_the_report_of_one(run, dataset, tmp_path):
    alone = evaluate(run, dataset, tmp_path / "alone")
    arguments = ["--checkpoint", str(run), "--data", str(dataset), "--output", str(tmp_path / "pair")]
    run_ranks(evaluate_main, 2, arguments)
    assert json.loads((tmp_path / "pair" / "bpd.json").read_text()) == alone[0]


def test_scores_are_those_of_the_model(dataset):
    model, reader = tiny_glow(torch.float32), SplitReader(dataset, "test")
    batch = Batch.concatenate(list(eval_batches(reader, 64, seed=0)))
    with torch.no_grad():
        expected = bits_per_dim(model(*batch.inputs), model.num_dims)
    scores = list(score_split(model, reader, 64, Bound("elbo", 1, 0)))
    assert [score.key for score in scores] == reader.keys()
    assert np.allclose([score.bits_per_dim for score in scores], expected, atol=1e-5)
    assert all(sum(score.parts) == pytest.approx(score.bits_per_dim, abs=1e-9) for score in scores)
    assert all(score.parts[0] == pytest.approx(model.config.num_bits, abs=1e-6) for score in scores)
    assert [score.label for score in scores] == batch.labels.tolist()


def test_figures_depend_on_the_seed_but_hardly(dataset):
    model, reader = tiny_glow(torch.float32), SplitReader(dataset, "test")
    means = [
        np.mean([s.bits_per_dim for s in score_split(model, reader, 64, Bound("elbo", 1, seed))]) for seed in (0, 1)
    ]
    assert means[0] != means[1]
    assert abs(means[0] - means[1]) < 0.1


def test_several_noise_samples_are_averaged(dataset):
    model, reader = tiny_glow(torch.float32), SplitReader(dataset, "test")
    one, three = (list(score_split(model, reader, 64, Bound("elbo", draws, 0))) for draws in (1, 3))
    differences = np.array([a.bits_per_dim - b.bits_per_dim for a, b in zip(one, three, strict=True)])
    assert np.median(np.abs(differences)) > 1e-5
    assert differences.mean() == pytest.approx(0, abs=0.1)


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
    assert html.count("data:image/png;base64,") == 10 + 2


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
    state = {"step": 1, "validation_bits_per_dim": None}
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
    sample_stage.main(["--checkpoint", str(run), "--temperatures", "[0.33]", "--num_images", "4", "--weights", "raw"])
    evaluate(run, dataset, tmp_path / "ema")
    evaluate(run, dataset, tmp_path / "raw", "--weights", "raw")
    assert "temperature 0.33" not in (tmp_path / "ema/report.html").read_text()
    assert "temperature 0.33" in (tmp_path / "raw/report.html").read_text()


def test_data_of_another_shape_and_unknown_split_are_refused(run, dataset, tmp_path):
    source = write_images(tmp_path / "images", 6, (1, 4, 4))
    prepare(PrepareRun([str(source)], str(tmp_path / "grey"), num_workers=0))
    with pytest.raises(ValueError, match=r"images of shape \[1, 4, 4\], but the model of .* is for \[3, 8, 8\]"):
        evaluate(run, tmp_path / "grey", tmp_path / "report", "--split", "train")
    with pytest.raises(ValueError, match="has no split 'dev'"):
        evaluate(run, dataset, tmp_path / "report", "--split", "dev")


# Baselines


def random_batch(count, levels, shape=(1, 2, 2), seed=0):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, levels, (count, *shape), generator=rng, dtype=torch.uint8) * (256 // levels)
    return Batch([str(n) for n in range(count)], images, torch.rand(count, *shape, generator=rng), None)


def test_gaussian_baseline_is_the_density_of_the_fitted_gaussian():
    train, test = random_batch(500, 16), random_batch(50, 16, seed=1)
    baseline = GaussianBaseline([train.part(0, 200), train.part(200, 500)], num_bits=4)
    x, y = ((b.images / 16 + b.noise.double()).flatten(1) for b in (train, test))
    fitted = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0))
    expected = -fitted.log_prob(y) / (4 * math.log(2))
    assert np.allclose(baseline.bits_per_dim(test), expected, atol=1e-9)


def test_histogram_baseline_of_uniform_levels_is_their_bits():
    baseline = HistogramBaseline([random_batch(20_000, 4)], num_bits=2, num_dims=4)
    assert np.allclose(baseline.bits_per_dim(random_batch(50, 4, seed=1)), 2, atol=0.1)
    tiny = HistogramBaseline([random_batch(2, 4)], num_bits=2, num_dims=4)
    assert np.isfinite(tiny.bits_per_dim(random_batch(50, 4, seed=1))).all()


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


# Sampling


def draw(model, indices, temperature=0.7, batch_size=64, seed=0):
    return torch.cat(list(sample_images(model, indices, temperature, Draw(seed), batch_size)))


def test_image_i_depends_on_seed_and_i_alone():
    model = tiny_glow(torch.float32)
    images = draw(model, range(150))
    assert images.dtype == torch.uint8
    for batch_size in (1, 7, 64):
        assert torch.equal(draw(model, range(150), batch_size=batch_size), images)
    assert torch.equal(draw(model, range(61, 130)), images[61:130])
    assert torch.equal(draw(model, range(149, 150)), images[149:])
    assert not torch.equal(draw(model, range(150), seed=1), images)


def test_groups_are_cut_at_multiples_of_their_size():
    assert [list(r) for r in aligned_ranges(range(3, 9), 4)] == [[3], [4, 5, 6, 7], [8]]
    assert [group_size((3, side, side)) for side in (8, 32, 64, 256, 512)] == [64, 64, 16, 1, 1]


def test_grids_show_the_same_latents_at_every_temperature(run, tmp_path, capsys):
    arguments = [
        "--checkpoint",
        str(run),
        "--temperatures",
        "[0, 0.5, 1]",
        "--num_images",
        "9",
        "--output",
        str(tmp_path),
    ]
    sample_stage.main([*arguments, "--save_images", "true"])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path)
    description = json.loads((tmp_path / "samples.json").read_text())
    assert description["temperatures"] == [0.0, 0.5, 1.0]
    assert description["dtype"] == "float32"
    cold = [np.asarray(Image.open(tmp_path / "images-t0.00" / f"{n:08d}.png")) for n in range(9)]
    warm = [np.asarray(Image.open(tmp_path / "images-t1.00" / f"{n:08d}.png")) for n in range(9)]
    half = [np.asarray(Image.open(tmp_path / "images-t0.50" / f"{n:08d}.png")) for n in range(9)]
    assert all(np.array_equal(image, cold[0]) for image in cold)
    assert not np.array_equal(warm[0], warm[1])

    def distance(a, b):
        return np.abs(a.astype(float) - b.astype(float)).mean()

    own = np.mean([distance(half[n], warm[n]) for n in range(9)])
    other = np.mean([distance(half[n], warm[(n + 1) % 9]) for n in range(9)])
    assert own < other
    with Image.open(tmp_path / "grid-t0.50.png") as grid:
        assert grid.size[0] == 3 + 3 * (6 * 8 + 3)


def test_shared_sampling_merges_to_what_one_process_writes(run, tmp_path):
    arguments = ["--checkpoint", str(run), "--temperatures", "[0.5, 1]"]
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    one = ["--first_index", "3", "--num_images", "9"]
    sample_stage.main([*arguments, *one, "--save_images", "true", "--output", str(whole)])
    for first, count in ((3, 2), (5, 4), (9, 3)):
        part = ["--first_index", str(first), "--num_images", str(count), "--save_images", "true"]
        sample_stage.main([*arguments, *part, "--save_grids", "false", "--output", str(shared)])
    assert sorted(path.name for path in shared.iterdir()) == ["images-t0.50", "images-t1.00"]
    sample_stage.main([*arguments, *one, "--merge", "true", "--output", str(shared)])
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert len(files) == 2 * 9 + 2 + 1
    assert files == sorted(path.relative_to(shared) for path in shared.rglob("*") if path.is_file())
    for file in files:
        assert (whole / file).read_bytes() == (shared / file).read_bytes()


def test_merge_refuses_missing_and_foreign_images(run, tmp_path):
    arguments = ["--checkpoint", str(run), "--temperatures", "[1]", "--output", str(tmp_path)]
    sample_stage.main([*arguments, "--num_images", "3", "--save_images", "true", "--save_grids", "false"])
    with pytest.raises(ValueError, match=r"images-t1.00/00000003.png: not there, nor 1 others of 5 images"):
        sample_stage.main([*arguments, "--num_images", "5", "--merge", "true"])
    with pytest.raises(ValueError, match=r"images-t1.00/00000000.png: drawn from .*\"seed\": 0"):
        sample_stage.main([*arguments, "--num_images", "3", "--merge", "true", "--seed", "1"])
    with pytest.raises(ValueError, match="save_grids: false is not allowed; set save_images to true, too"):
        sample_stage.main([*arguments, "--save_grids", "false"])
    assert [path.name for path in tmp_path.iterdir()] == ["images-t1.00"]


def test_grid_holds_the_images_pixel_by_pixel():
    images = torch.randint(0, 256, (5, 3, 60, 50), dtype=torch.uint8)
    grid = image_grid(images)
    assert grid.shape == (1 + 2 * 61, 1 + 3 * 51, 3)
    assert np.array_equal(grid[62:122, 52:102], images[4].permute(1, 2, 0).numpy())
    small = image_grid(torch.full((4, 1, 8, 8), 200, dtype=torch.uint8))
    assert small.shape == (105, 105, 3)
    assert (small[3:51, 3:51] == 200).all()


def test_round_trip_error_notices_a_wrong_inverse(dataset, monkeypatch):
    model = tiny_glow(torch.float32)
    batch = next(eval_batches(SplitReader(dataset, "test"), 8, 0))
    assert round_trip_error(model, batch) < 1e-4
    coupling = type(model.chain[1].bijector.bijectors[2])
    monkeypatch.setattr(coupling, "invert", lambda self, z, context=None: z)
    assert round_trip_error(model, batch) > 1e-2


def test_interrupted_sampling_leaves_nothing_for_a_report(run, dataset, tmp_path, monkeypatch):
    folder = run / "samples" / "step-00000007"
    sample_stage.main(["--checkpoint", str(run), "--temperatures", "[0.44]", "--num_images", "4"])
    grid = sample_stage.image_grid
    monkeypatch.setattr(
        sample_stage, "image_grid", lambda images, rows: grid(images, rows) if len(images) == 4 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        sample_stage.main(["--checkpoint", str(run), "--temperatures", "[0.44]", "--num_images", "5"])
    assert list(folder.glob("*.*")) == []
    evaluate(run, dataset, tmp_path / "report")
    assert "temperature 0.44" not in (tmp_path / "report/report.html").read_text()


def test_samples_that_are_not_finite_are_named():
    model = tiny_glow(torch.float32)
    with pytest.warns(UserWarning, match=r"image 3 at temperature 1e\+38 is not finite"):
        draw(model, range(3, 4), 1e38)


def test_sampling_in_several_processes_is_refused(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"sample runs as one process; .* --first_index"):
        sample_stage.main(["--checkpoint", str(run)])


def test_health_of_a_flow_tells_its_levels_and_conditions(dataset):
    model = tiny_glow(torch.float32)
    batch = next(eval_batches(SplitReader(dataset, "test"), 8, 0))
    health = flow_health(model, batch)
    with torch.no_grad():
        total = bits_per_dim(model(*batch.inputs), model.num_dims).mean().item()
    parts = [health[f"health/{part}_{level}"] for part in ("logdet", "prior") for level in (1, 2)]
    assert sum(parts) + 8 == pytest.approx(total, abs=1e-4)
    latents, logdet = model.encode(model.dequantize(*batch.inputs)[0])
    priors = [bits_per_dim(standard_normal_log_prob(latent), model.num_dims).mean().item() for latent in latents]
    assert parts[2:] == pytest.approx(priors, abs=1e-5)
    assert sum(parts[:2]) == pytest.approx(bits_per_dim(logdet, model.num_dims).mean().item(), abs=1e-5)
    conv = model.chain[1].bijector.bijectors[1]
    singular_values = torch.linalg.svdvals(conv.weight().detach().double())
    assert health["health/condition/001"] == pytest.approx((singular_values[0] / singular_values[-1]).item())
    assert len([name for name in health if "condition" in name]) == 4


def test_stages_refuse_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no latest checkpoint there"):
        sample_stage.main(["--checkpoint", str(tmp_path)])
    with pytest.raises(ValueError, match=r"temperatures: .* give finite numbers, each 0 or more"):
        sample_stage.main(["--checkpoint", str(tmp_path), "--temperatures", "[0.5, .nan]"])
    with pytest.raises(ValueError, match=r"temperatures: .* differ by 0\.01"):
        sample_stage.main(["--checkpoint", str(tmp_path), "--temperatures", "[0.701, 0.699]"])
    assert not list(Path(tmp_path).iterdir())
