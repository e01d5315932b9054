"""The posterior of a logistic regression as a target, and the data of the example."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glow.inference.targets import Target


class LogisticRegression(Target):
    """The posterior of the coefficients w of ``P(label = 1) = sigmoid(w0 + w1 x1 + ... + wF xF)``; D = F + 1.

    All coefficients have the prior ``N(0, prior_std^2)``. The prior is normalised, so the integral of the target is the
    evidence.

    Args:
        features: x, ``[M, F]``.
        labels: 0 or 1, ``[M]``.
        prior_std: The standard deviation of the prior.
        names: The names of the features.

    Raises:
        ValueError: when features are not finite, labels are not 0 or 1, or the shapes do not match.
    """

    design: Tensor
    label_sums: Tensor

    def __init__(
        self, features: Tensor, labels: Tensor, *, prior_std: float = 1.0, names: Sequence[str] | None = None
    ) -> None:
        if features.dim() != 2 or labels.shape != features.shape[:1] or not len(labels):
            raise ValueError(
                f"logistic regression: features {list(features.shape)} and labels {list(labels.shape)} must be [M, F] "
                "and [M], a label for each row"
            )
        broken = (~features.isfinite().all(1)).nonzero().flatten()
        if len(broken):
            raise ValueError(
                f"logistic regression: {len(broken)} of {len(features)} rows of features have NaN or infinities, "
                f"first row {int(broken[0])}"
            )
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError(f"logistic regression: labels {labels.unique().tolist()[:8]}; give only 0 and 1")
        num_features = features.shape[1]
        names = names or [f"w{number}" for number in range(1, num_features + 1)]
        super().__init__("logistic", num_features + 1, ["intercept", *names])
        self.prior_std = prior_std
        design = torch.cat([torch.ones(len(features), 1).to(features), features], dim=1).double()
        self.register_buffer("design", design.float(), persistent=False)
        self.register_buffer("label_sums", (labels.double() @ design).float(), persistent=False)

    def log_density(self, x: Tensor) -> Tensor:
        """Return log-likelihood plus log-prior, ``[N]``, in nats, of coefficients ``[N, D]``."""
        log_likelihood = x @ self.label_sums - F.softplus(x @ self.design.T).sum(1)
        log_prior = -0.5 * (x / self.prior_std).square().sum(1)
        return log_likelihood + log_prior - self.num_dims * math.log(self.prior_std * math.sqrt(2 * math.pi))


def breast_cancer() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return scikit-learn's breast cancer data: features float64 ``[569, 30]``, labels 0 (malignant) or 1 (benign)
    ``[569]``, and the names of the features.

    Every feature is standardised: mean 0 and standard deviation 1 over the rows.

    Raises:
        ValueError: when scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_breast_cancer  # an optional dependency
    except ImportError as error:
        raise ValueError("target.name logistic: its data needs scikit-learn: pip install 'glow-flows[demo]'") from error
    data = load_breast_cancer()
    features = (data.data - data.data.mean(0)) / data.data.std(0)
    return features, data.target, [str(name) for name in data.feature_names]
