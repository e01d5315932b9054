"""Multiscale Glow: density models of images, and flows of vectors.

The names below are the public interface. Each is imported when it is first used: ``import glow`` and the
configurations need no torch.

    load                        a trained model from a run: score, sample, encode, decode
    TrainedGlow, TrainedFlow    what load returns; they also wrap a model of your own
    Glow, ModelConfig           the model of images, a torch module, and its configuration
    Flow, FlowConfig            the model of vectors and its configuration
    build_flow                  a Flow from its configuration
    DiagonalGaussian            the base density of a Flow
    bits_per_dim                nats to bits/dim
    bijectors, networks         the parts: invertible maps, and what couplings compute with
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glow import bijectors, networks
    from glow.config import FlowConfig, ModelConfig
    from glow.models.flow import DiagonalGaussian, Flow, build_flow
    from glow.models.glow import Glow
    from glow.models.images import bits_per_dim
    from glow.trained.images import TrainedGlow
    from glow.trained.loading import load
    from glow.trained.vectors import TrainedFlow

__version__ = "0.1.0"

__all__ = [
    "DiagonalGaussian",
    "Flow",
    "FlowConfig",
    "Glow",
    "ModelConfig",
    "TrainedFlow",
    "TrainedGlow",
    "bijectors",
    "bits_per_dim",
    "build_flow",
    "load",
    "networks",
]

_MODULES = {
    "DiagonalGaussian": "glow.models.flow",
    "Flow": "glow.models.flow",
    "FlowConfig": "glow.config",
    "Glow": "glow.models.glow",
    "ModelConfig": "glow.config",
    "TrainedFlow": "glow.trained.vectors",
    "TrainedGlow": "glow.trained.images",
    "bits_per_dim": "glow.models.images",
    "build_flow": "glow.models.flow",
    "load": "glow.trained.loading",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    elif name in __all__:
        value = import_module(f"glow.{name}")
    else:
        raise AttributeError(f"module 'glow' has no attribute {name!r}; its public names: {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List what there is already, and the public names."""
    return sorted({*globals(), *__all__})
