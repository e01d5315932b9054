"""The coupling network for vectors: a multilayer perceptron."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.networks.base import Network


class MLP(Network):
    """Linear layers with SiLU between them; the last one is zero-initialised.

    SiLU is smooth, so the density of the flow is smooth too.

    Args:
        in_features: Numbers of the input ``[N, in_features]``.
        hidden_features: Numbers of every hidden layer.
        out_features: Numbers of the output ``[N, out_features]``.
        context_features: Numbers of the context ``[N, context_features]``, which is concatenated to the input. 0: none.
        num_hidden_layers: 1 or more.

    Raises:
        ValueError: in forward, when the network takes a context and it is missing or has another width.

    Source: Ramachandran, Zoph & Le 2017 (arXiv 1710.05941) for SiLU, under the name of swish.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        context_features: int = 0,
        num_hidden_layers: int = 2,
    ) -> None:
        super().__init__()
        self.context_features = context_features
        sizes = [in_features + context_features, *[hidden_features] * num_hidden_layers]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(sizes))
        self.last = nn.Linear(hidden_features, out_features)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def compute(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Map ``[N, in_features]`` to ``[N, out_features]``."""
        if self.context_features:
            if context is None:
                raise ValueError("this model is conditional: it needs a context")
            if context.shape[1] != self.context_features:
                raise ValueError(f"context {list(context.shape)} must be [N, {self.context_features}]")
            x = torch.cat([x, context], dim=1)
        for layer in self.hidden:
            x = F.silu(layer(x))
        return self.last(x)
