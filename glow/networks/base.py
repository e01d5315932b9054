"""The base class of all coupling networks: precision, and recomputation in the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from glow.bijectors.reuse import Reusing


class Network(Reusing):
    """A coupling network; a subclass implements ``compute``.

    Attributes:
        compute_dtype: The precision of the network under autocast. None: that of its input. The output always has the
            dtype of the input.
        is_recomputed: Whether autograd keeps nothing but the arguments, and the backward pass runs ``compute`` again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.compute_dtype: torch.dtype | None = None
        self.is_recomputed = False

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map ``[N, in, ...]`` to ``[N, out, ...]``, given the context."""
        dtype = self.compute_dtype
        with torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            if self.is_recomputed and torch.is_grad_enabled():
                output = checkpoint(self.compute, x, context, use_reentrant=False, preserve_rng_state=False)
            else:
                output = self.compute(x, context)
            return output.to(x.dtype)

    def compute(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Return the output, in any precision."""
        raise NotImplementedError
