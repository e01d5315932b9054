"""Numeric precision: which parts of a model may be less than float32."""

from __future__ import annotations

import torch
from torch import nn

from glow.networks.base import Network

NETWORK_DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # by mixed precision; None: as the state


def use_exact_float32() -> None:
    """Turn TF32 off, process-wide: on CUDA, float32 convolutions would otherwise keep only 10 bits of the state."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def set_compute_dtype(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Let all coupling networks in ``model`` run in ``dtype`` under autocast, or in that of their input (None)."""
    for module in model.modules():
        if isinstance(module, Network):
            module.compute_dtype = dtype
