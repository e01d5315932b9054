"""What variational inference is given: the energies, and the posterior of a logistic regression."""

import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from glow.config import TargetConfig, TrainRun
from glow.inference.energies import ENERGIES, Energy
from glow.inference.logistic import LogisticRegression, breast_cancer
from glow.inference.posterior import grid_of
from glow.training.tasks.target import TargetTask

REFERENCE = json.loads(Path("tests/reference/logistic.json").read_text())


def paper_density(name, z1, z2):
    """exp(-U) as table 1 of the paper has it."""
    w1 = math.sin(2 * math.pi * z1 / 4)
    w2 = 3 * math.exp(-0.5 * ((z1 - 1) / 0.6) ** 2)
    w3 = 3 / (1 + math.exp(-(z1 - 1) / 0.3))

    def bell(x, scale):
        return math.exp(-0.5 * (x / scale) ** 2)

    return {
        "u1": bell(math.hypot(z1, z2) - 2, 0.4) * (bell(z1 - 2, 0.6) + bell(z1 + 2, 0.6)),
        "u2": bell(z2 - w1, 0.4),
        "u3": bell(z2 - w1, 0.35) + bell(z2 - w1 + w2, 0.35),
        "u4": bell(z2 - w1, 0.4) + bell(z2 - w1 + w3, 0.35),
    }[name]


@pytest.mark.parametrize("name", ENERGIES)
def test_energy_is_that_of_the_paper_within_its_square(name):
    points = list(itertools.product([-3.9, -2.2, -0.3, 0.0, 1.1, 2.6, 4.0], [-2.4, -1.0, 0.1, 0.8, 1.9]))
    values = Energy(name)(torch.tensor(points, dtype=torch.float64))
    assert torch.allclose(
        values.exp(), torch.tensor([paper_density(name, *point) for point in points], dtype=torch.float64)
    )


@pytest.mark.parametrize("name", ENERGIES)
def test_energy_lies_in_its_square_and_is_finite_everywhere(name):
    target, square = Energy(name), np.full(2, 8.0)
    grids = [grid_of(target, None, resolution) for resolution in (200, 400)]
    assert grids[0].log_normalizer == pytest.approx(grids[1].log_normalizer, abs=1e-6)
    assert np.array_equal(grids[1].high, square)
    assert 0 <= grids[1].edge < 1e-9
    target.check(torch.tensor([[0.0, 0.0], [50.0, -50.0], [-1e3, 1e3], [4.0, 4.0]]))


def test_logistic_posterior_is_likelihood_times_normalised_prior():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(20, 3)), rng.integers(2, size=20)
    target = LogisticRegression(torch.from_numpy(features), torch.from_numpy(labels), prior_std=0.7)
    w = rng.normal(size=(5, 4))
    logits = w[:, :1] + w[:, 1:] @ features.T
    p = 1 / (1 + np.exp(-logits))
    prior = torch.distributions.Normal(0.0, 0.7).log_prob(torch.from_numpy(w)).sum(1).numpy()
    expected = np.where(labels == 1, np.log(p), np.log(1 - p)).sum(1) + prior
    assert np.allclose(target.double()(torch.from_numpy(w)).numpy(), expected, rtol=1e-5)
    assert target.dimensions == ["intercept", "w1", "w2", "w3"]


def test_breast_cancer_features_are_standardised():
    features, labels, names = breast_cancer()
    assert features.shape == (569, len(names)) == (569, 30)
    assert np.abs(features.mean(0)).max() < 1e-9
    assert np.allclose(features.std(0), 1)
    assert labels.sum() == 357
    assert REFERENCE["names"] == ["intercept", *names]


def test_missing_library_of_the_data_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r"target\.name logistic: its data needs scikit-learn: pip install"):
        TargetTask(TrainRun("x", target=TargetConfig("logistic")))


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        ([[1.0], [math.nan], [0.0]], [0, 1, 1], "1 of 3 rows of features have NaN or infinities, first row 1"),
        ([[1.0], [2.0]], [0, 1, 1], r"features \[2, 1\] and labels \[3\] must be \[M, F\] and \[M\]"),
        ([1.0, 2.0], [0, 1], r"features \[2\]"),
        ([[1.0], [2.0]], [0, 2], r"labels \[0, 2\]; give only 0 and 1"),
    ],
)
def test_data_that_is_of_no_use_is_refused(features, labels, message):
    with pytest.raises(ValueError, match=message):
        LogisticRegression(torch.tensor(features), torch.tensor(labels))
