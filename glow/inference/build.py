"""Build the target of variational inference from the config."""

from __future__ import annotations

import hashlib
import importlib

import torch

from glow.config import TrainRun
from glow.inference.energies import ENERGIES, Energy
from glow.inference.logistic import LogisticRegression, breast_cancer
from glow.inference.targets import FunctionTarget, Target


def build_target(run: TrainRun) -> Target:
    """Build the target of a run.

    Raises:
        ValueError: when the target cannot be built, or the flow has another number of dimensions.
    """
    config, num_dims = run.target, run.flow.num_dims
    if config.function is not None:
        if num_dims is None:
            raise ValueError(f"flow.num_dims is not set; give the dimension of the x that {config.function} takes")
        return FunctionTarget(config.function, _find(config.function), num_dims)
    target = Energy(config.name) if config.name in ENERGIES else _logistic(config.prior_std or 1.0)
    if num_dims not in (None, target.num_dims):
        raise ValueError(f"flow.num_dims: {num_dims}, but target {target.name} has {target.num_dims} dimensions")
    return target


def fingerprint(run: TrainRun, target: Target) -> str:
    """Return a hash that changes with the target: its name, options and data, but not the code of a function."""
    digest = hashlib.sha256(repr((run.target.source, run.target.prior_std or 1.0, target.num_dims)).encode())
    for buffer in target.buffers():
        digest.update(buffer.cpu().numpy().tobytes())
    return digest.hexdigest()


def _logistic(prior_std: float) -> LogisticRegression:
    features, labels, names = breast_cancer()
    return LogisticRegression(torch.from_numpy(features), torch.from_numpy(labels), prior_std=prior_std, names=names)


def _find(path: str) -> object:
    """Import ``MODULE:FUNCTION``."""
    module, name = path.split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ValueError(f"target.function {path}: {error}") from error
