"""Tables of features and labels that come with a library, to infer something from."""

from __future__ import annotations

import numpy as np


def breast_cancer() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return scikit-learn's breast cancer data: features float64 ``[569, 30]``, labels 0 (malignant) or 1 (benign)
    ``[569]``, and the names of the features.

    Every feature has mean 0 and standard deviation 1 over the rows.

    Raises:
        ValueError: without scikit-learn.
    """
    try:
        from sklearn.datasets import load_breast_cancer  # an optional dependency
    except ImportError as error:
        raise ValueError("target.name logistic: its data needs scikit-learn: pip install 'glow-flows[demo]'") from error
    data = load_breast_cancer()
    features = (data.data - data.data.mean(0)) / data.data.std(0)
    return features, data.target, [str(name) for name in data.feature_names]
