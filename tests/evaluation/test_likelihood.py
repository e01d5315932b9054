"""Likelihoods of the images of a split: those of the model, for any batch size and number of processes."""

import numpy as np
import pytest
import torch
from conftest import tiny_glow

from glow.data.read.batch import Batch, Share
from glow.data.read.loader import eval_batches
from glow.data.read.reader import SplitReader
from glow.evaluation.health import flow_health
from glow.evaluation.likelihood import Bound, round_trip_error, score_split
from glow.models.glow import standard_normal_log_prob
from glow.models.images import bits_per_dim


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


def test_round_trip_error_notices_a_wrong_inverse(dataset, monkeypatch):
    model = tiny_glow(torch.float32)
    batch = next(eval_batches(SplitReader(dataset, "test"), 8, 0))
    assert round_trip_error(model, batch) < 1e-4
    coupling = type(model.chain[1].bijector.bijectors[2])
    monkeypatch.setattr(coupling, "invert", lambda self, z, context=None: z)
    assert round_trip_error(model, batch) > 1e-2


def test_health_of_a_flow_is_that_of_its_levels_and_weights(dataset):
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
