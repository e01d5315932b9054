"""Flows of vectors: a base density, and bijectors that transform it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.base import Bijector, Composition, Inverse
from glow.bijectors.batchnorm import BatchNorm
from glow.bijectors.conv1x1 import LUConv1x1
from glow.bijectors.coupling import AdditiveCoupling, AffineCoupling, Coupling
from glow.bijectors.initialization import initialize_actnorms
from glow.bijectors.mask import ChannelMask
from glow.bijectors.mixture import MixtureCoupling, parameters_per_number
from glow.bijectors.planar import Planar
from glow.bijectors.radial import Radial
from glow.config import FlowConfig
from glow.networks.mlp import MLP


class DiagonalGaussian(nn.Module):
    """The density ``N(mean, diag(exp(log_scale))^2)`` of ``[N, D]``; it starts as the standard normal.

    Args:
        num_dims: D.
        is_learned: Whether mean and log-scale are parameters. False: it stays the standard normal.
    """

    mean: Tensor
    log_scale: Tensor

    def __init__(self, num_dims: int, *, is_learned: bool = False) -> None:
        super().__init__()
        self.num_dims = num_dims
        for name in ("mean", "log_scale"):
            zeros = torch.zeros(num_dims)
            if is_learned:
                self.register_parameter(name, nn.Parameter(zeros))
            else:
                self.register_buffer(name, zeros, persistent=False)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density ``[N]``, in nats, of ``z [N, D]``."""
        standard = (z - self.mean) * (-self.log_scale).exp()
        return -0.5 * standard.square().sum(1) - self.log_scale.sum() - 0.5 * self.num_dims * math.log(2 * math.pi)

    def from_noise(self, noise: Tensor) -> Tensor:
        """Turn standard normal noise ``[N, D]`` into draws from this density ``[N, D]``."""
        return self.mean + noise * self.log_scale.exp()


class Flow(nn.Module):
    """A density of vectors ``x [N, D]``: the bijectors map x to z, which has the base density.

    ``log p(x | context) = log base(z) + logdet`` with ``z, logdet = encode(x, context)``. A context ``[N, K]`` is one
    vector per example. It goes to every bijector; those that are not conditional ignore it.

        >>> mask = ChannelMask(parity=0)
        >>> flow = Flow(DiagonalGaussian(2), [AffineCoupling(MLP(1, 32, 2), mask), LUConv1x1(2)])
        >>> loss = -flow.log_prob(x).mean()

    Source: Papamakarios, Nalisnick, Rezende, Mohamed & Lakshminarayanan 2021 (arXiv 1912.02762), section 2.1.
    """

    def __init__(self, base: DiagonalGaussian, bijectors: Sequence[Bijector]) -> None:
        super().__init__()
        self.base = base
        self.bijector = Composition(*bijectors)
        self.num_dims = base.num_dims

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the log-density ``[N]``, in nats. Training calls this, so that wrappers such as DDP see it."""
        return self.log_prob(x, context)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the log-density ``[N]``, in nats.

        Raises:
            ValueError: when x is not ``[N, D]``, or the context is not ``[N, K]``.
        """
        z, logdet = self.encode(x, context)
        return self.base.log_prob(z) + logdet

    def encode(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the latents ``[N, D]`` and the logdet ``[N]``, in nats."""
        self._check("data", x, context)
        return self.bijector(x, context)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the data ``[N, D]``: the exact inverse of ``encode``."""
        self._check("latents", z, context)
        return self.bijector.inverse(z, context)[0]

    def sample(
        self, noise: Tensor | int, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return samples ``[N, D]``, differentiable in noise and parameters; see ``sample_and_log_prob``."""
        return self.sample_and_log_prob(noise, context, generator=generator)[0]

    def sample_and_log_prob(
        self, noise: Tensor | int, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return samples ``[N, D]`` and their log-densities ``[N]``, in nats, from one pass through the bijectors.

        Args:
            noise: Standard normal ``[N, D]``; or the number N, to draw the noise here.
            context: ``[N, K]``, or None.
            generator: For drawing the noise, on the device of the flow. Default: torch's own.
        """
        if isinstance(noise, int):
            like = self.base.mean
            noise = torch.randn(noise, self.num_dims, generator=generator, dtype=like.dtype, device=like.device)
        self._check("noise", noise, context)
        z = self.base.from_noise(noise)
        x, logdet = self.bijector.inverse(z, context)
        return x, self.base.log_prob(z) - logdet

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set all ActNorms from a batch (a collective: from the batches of all processes).

        Call it before the flow is wrapped, by DDP for example.

        Raises:
            ValueError: when x has NaN or infinite numbers.
        """
        if not x.isfinite().all():
            raise ValueError(f"{int((~x.isfinite()).any(1).sum())} of {len(x)} examples have NaN or infinite numbers")
        initialize_actnorms(self, x, context)

    def _check(self, what: str, x: Tensor, context: Tensor | None) -> None:
        if x.dim() != 2 or x.shape[1] != self.num_dims:
            raise ValueError(
                f"{what} {list(x.shape)} must be [N, {self.num_dims}]: the flow has {self.num_dims} dimensions"
            )
        if context is not None and (context.dim() != 2 or len(context) != len(x)):
            raise ValueError(f"context {list(context.shape)} must be [N, K] with N = {len(x)}, one row an example")


def build_flow(config: FlowConfig) -> Flow:
    """Build the flow of a config: every layer is a normalisation (optional), a linear map (optional), and a bijector.

    Raises:
        ValueError: when ``num_dims`` is not set.
    """
    num_dims = config.num_dims
    if num_dims is None:
        raise ValueError("flow.num_dims is not set: give the length of a vector")
    bijectors: list[Bijector] = []
    for index in range(config.num_layers):
        if config.normalization != "none":
            bijectors.append(ActNorm(num_dims) if config.normalization == "actnorm" else BatchNorm(num_dims))
        if config.linear:
            bijectors.append(LUConv1x1(num_dims))
        bijectors.append(_layer(num_dims, index, config))
    return Flow(DiagonalGaussian(num_dims, is_learned=config.base == "learned"), bijectors)


def _layer(num_dims: int, index: int, config: FlowConfig) -> Bijector:
    layer: Bijector
    if config.kind == "planar":
        layer = Planar(num_dims)
    elif config.kind == "radial":
        layer = Radial(num_dims)
    else:
        layer = vector_coupling(num_dims, index % 2, config)
    return Inverse(layer) if config.inverse else layer


def vector_coupling(num_dims: int, parity: int, config: FlowConfig, context_features: int = 0) -> Coupling:
    """Build a coupling of vectors; it changes the second half at parity 0, the first half at parity 1."""
    mask = ChannelMask(parity)
    given, changed = mask.sizes(num_dims)

    def network(parameters: int) -> MLP:
        width, depth = config.hidden_channels or 32, config.num_hidden_layers or 2
        sizes = (given, width, parameters * changed)
        return MLP(*sizes, num_hidden_layers=depth, context_features=context_features)

    if config.kind == "additive":
        return AdditiveCoupling(network(1), mask)
    if config.kind == "affine":
        return AffineCoupling(network(2), mask, config.scale or "tanh")
    num_mixtures = config.num_mixtures or 8
    return MixtureCoupling(network(parameters_per_number(num_mixtures)), mask, num_mixtures)
