"""The class of an image under a class-conditional model, by Bayes' rule with equally likely classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glow.evaluation.likelihood import Estimate, ImageScore

NUM_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """How often the most probable class is right, in bins of its probability (the confidence).

    Attributes:
        edges: Edges of the bins of confidence, ``[bins + 1]``.
        counts: Images in each bin.
        confidences: Mean confidence in each bin (nan where empty).
        accuracies: Share of right classes in each bin (nan where empty).
    """

    edges: np.ndarray
    counts: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance between confidence and accuracy, over the images.

        Source: Guo, Pleiss, Sun & Weinberger 2017 (arXiv 1706.04599), equation 3.
        """
        return float(np.nansum(self.counts * np.abs(self.confidences - self.accuracies)) / self.counts.sum())


def class_posteriors(scores: Sequence[ImageScore]) -> np.ndarray:
    """Return p(class | image), float64 ``[images, classes]``."""
    log_probs = np.array([score.log_prob_by_class for score in scores])
    shifted = np.exp(log_probs - log_probs.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def reliability(scores: Sequence[ImageScore]) -> Reliability:
    """Bin images by the probability of their most probable class."""
    posteriors = class_posteriors(scores)
    confidence = posteriors.max(axis=1)
    is_right = posteriors.argmax(axis=1) == np.array([score.label for score in scores])
    edges = np.linspace(0, 1, NUM_BINS + 1)
    bins = np.clip(np.digitize(confidence, edges) - 1, 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    with np.errstate(invalid="ignore"):
        confidences = np.bincount(bins, confidence, NUM_BINS) / counts
        accuracies = np.bincount(bins, is_right, NUM_BINS) / counts
    return Reliability(edges, counts, confidences, accuracies)


def marginal_bits_per_dim(score: ImageScore, num_dims: int) -> float:
    """Return the bits/dim of an image without its label, from the mean of its probability over the classes."""
    log_probs = np.array(score.log_prob_by_class)
    log_prob = log_probs.max() + math.log(np.exp(log_probs - log_probs.max()).mean())
    return float(-log_prob / (num_dims * math.log(2)))


def summarize_classes(scores: Sequence[ImageScore], num_dims: int) -> dict[str, Any]:
    """Return the entry of bpd.json about the classes."""
    marginal = Estimate.of([marginal_bits_per_dim(score, num_dims) for score in scores])
    posteriors = class_posteriors(scores)
    accuracy = Estimate.of(posteriors.argmax(axis=1) == np.array([score.label for score in scores]))
    return {
        "num_classes": posteriors.shape[1],
        "bits_per_dim_without_label": marginal.mean,
        "standard_error": marginal.standard_error,
        "accuracy": accuracy.mean,
        "accuracy_standard_error": accuracy.standard_error,
        "expected_calibration_error": reliability(scores).expected_calibration_error,
    }
