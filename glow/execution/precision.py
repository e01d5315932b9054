"""Numeric precision: float32 for the state of the flow, less only for coupling networks."""

from __future__ import annotations

import torch
from torch import nn

from glow.networks.base import Network

NETWORK_DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # None: the dtype of the state

DTYPE_NAMES = {None: "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def use_exact_float32() -> None:
    """Turn TF32 off for the whole process: on CUDA it would round the inputs of float32 convolutions to 10 bits."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def set_compute_dtype(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Run all coupling networks of a model in ``dtype``, under autocast. None: in the dtype of their input."""
    for module in model.modules():
        if isinstance(module, Network):
            module.compute_dtype = dtype


def compute_dtype_of(model: nn.Module) -> str:
    """Return the precision of the coupling networks of a float32 model: float32, bf16 or fp16."""
    networks = (module for module in model.modules() if isinstance(module, Network))
    return DTYPE_NAMES[next((network.compute_dtype for network in networks), None)]
