"""Bounds of the likelihood: variational dequantisation and the importance-weighted bound."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from conftest import perturb, random_inputs, tiny_config, tiny_glow
from training_runs import options

from glow.data.read.loader import dequantization_noise
from glow.data.read.reader import SplitReader
from glow.evaluation.likelihood import Bound, score_split
from glow.models.dequantization import VariationalDequantizer
from pipelines import evaluate as evaluate_stage
from pipelines import train as train_stage

VARIATIONAL = {"dequantization": "variational", "dequantization_steps": 2}


def initialized_dequantizer():
    model = tiny_glow(size=0.0, **VARIATIONAL)
    return model.dequantizer


def test_variational_dequantisation_begins_as_the_uniform_one():
    images, noise = random_inputs(tiny_config(), 4)
    u, entropy = initialized_dequantizer()(images.double() / 256 - 0.5, noise)
    assert torch.allclose(u, noise, atol=1e-12)
    assert entropy.abs().max() < 1e-9


def test_density_of_variational_noise_is_that_of_its_map():
    dequantizer = initialized_dequantizer()
    perturb(dequantizer, 0.02)
    images, noise = random_inputs(tiny_config(), 2)
    centres = images.double() / 256 - 0.5
    u, entropy = dequantizer(centres, noise)
    assert ((u > 0) & (u < 1)).all()
    assert (u - noise).abs().max() > 0.003
    jacobian = torch.autograd.functional.jacobian(
        lambda v: dequantizer(centres[:1], v.view(1, 3, 8, 8))[0].flatten(), noise[:1].flatten()
    )
    assert abs(torch.linalg.slogdet(jacobian).logabsdet - entropy[0]) < 1e-8
    other = dequantizer(-centres, noise)[0]
    assert not torch.allclose(u, other)  # it depends on the image


def test_gradients_reach_the_dequantizer():
    model = tiny_glow(torch.float32, **VARIATIONAL)
    model(*random_inputs(model.config, 4, torch.float32)).mean().backward()
    assert all(p.grad.abs().max() > 0 for p in VariationalDequantizer.parameters(model.dequantizer))


@pytest.fixture
def model():
    return tiny_glow(torch.float32, 0.05, **VARIATIONAL)


def log_probs(model, reader, draws, seed=0):
    """Log-probability of every image with each of its draws, ``[images, draws]``."""
    rows = []
    for number in range(len(reader)):
        sample = reader.read([number])[number]
        image = torch.from_numpy(np.ascontiguousarray(reader.decode(sample)))[None]
        noise = [dequantization_noise(sample.key, model.image_shape, seed, draw) for draw in range(draws)]
        with torch.no_grad():
            rows.append(model(image.expand(draws, -1, -1, -1), torch.from_numpy(np.stack(noise))).double())
    return torch.stack(rows)


def test_both_bounds_are_those_of_their_formulas(model, dataset):
    reader, draws = SplitReader(dataset, "test"), 5
    expected = log_probs(model, reader, draws)
    nats = -model.num_dims * math.log(2)
    elbo = [score.bits_per_dim * nats for score in score_split(model, reader, 16, Bound("elbo", draws, 0))]
    assert elbo == pytest.approx(expected.mean(1).tolist(), rel=1e-5)
    scores = list(score_split(model, reader, 16, Bound("iwbo", draws, 0)))
    iwbo = [score.bits_per_dim * nats for score in scores]
    assert iwbo == pytest.approx((expected.logsumexp(1) - math.log(draws)).tolist(), rel=1e-5)
    assert all(tight > loose for tight, loose in zip(iwbo, elbo, strict=True))
    assert all(sum(score.parts) == pytest.approx(score.bits_per_dim) for score in scores)


def test_importance_weighted_bound_rises_with_its_draws(model, dataset):
    reader = SplitReader(dataset, "test")
    one, ten = ([s.bits_per_dim for s in score_split(model, reader, 64, Bound("iwbo", k, 0))] for k in (1, 10))
    gain = np.array(one) - np.array(ten)
    assert gain.mean() > 3 * gain.std(ddof=1) / math.sqrt(len(gain))
    single = [s.bits_per_dim for s in score_split(model, reader, 64, Bound("elbo", 1, 0))]
    assert one == pytest.approx(single, rel=1e-12)


def test_report_says_which_bound_of_how_many_draws(dataset, tmp_path):
    run = tmp_path / "run"
    train_stage.main(options(dataset, run, "--model.dequantization", "variational"))
    common = ["--checkpoint", str(run), "--data", str(dataset), "--baselines", "false"]
    found = {}
    for bound, draws in (("elbo", 1), ("elbo", 4), ("iwbo", 4)):
        output = tmp_path / f"{bound}{draws}"
        evaluate_stage.main([*common, "--bound", bound, "--num_noise_samples", str(draws), "--output", str(output)])
        summary = json.loads((output / "bpd.json").read_text())
        assert (summary["bound"], summary["num_noise_samples"]) == (bound, draws)
        assert summary["dequantization"] == "variational"
        assert sum(summary["parts"]["levels"]) + summary["parts"]["dequantisation"] == pytest.approx(
            summary["bits_per_dim"]
        )
        text = (output / "report.html").read_text()
        assert "by variational dequantisation" in text
        assert ("the logarithm of the mean probability over" in text) == (bound == "iwbo")
        with (output / "per_image.csv").open() as file:
            found[bound, draws] = [float(row["bits_per_dim"]) for row in csv.DictReader(file)]
    assert np.mean(found["iwbo", 4]) < np.mean(found["elbo", 4])
