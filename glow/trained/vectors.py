"""A trained flow: log-densities, samples and latents of plain arrays of vectors."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from glow.evaluation.vectors import log_prob
from glow.models.flow import Flow
from glow.sampling.images import sample_vectors


class TrainedFlow:
    """A trained flow of vectors, for use from Python.

    Vectors are numbers ``[N, D]``, tensors or numpy arrays. Results are tensors on the CPU.

        >>> flow = glow.load("runs/moons")
        >>> log_density = flow.log_prob(x)
        >>> samples = flow.sample(1000)
        >>> z = flow.encode(x)
        >>> x = flow.decode(z)

    Attributes:
        flow: The model itself, a ``torch.nn.Module`` in eval mode; it computes on the device of its parameters.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow.eval()

    def __repr__(self) -> str:
        """Say how many dimensions the model has."""
        return f"TrainedFlow({self.flow.num_dims} dimensions)"

    def log_prob(self, x: Tensor | np.ndarray) -> Tensor:
        """Return the log-density of vectors ``[N, D]``: float64 ``[N]``, in nats, computed in float64.

        Raises:
            ValueError: for another shape, or anything but numbers.
        """
        return torch.from_numpy(log_prob(self.flow, self._check("x", x).numpy()))

    def sample(self, count: int, *, seed: int = 0) -> Tensor:
        """Draw vectors, float32 ``[count, D]``: those that ``sample`` writes to samples.npy.

        Vector i depends on the seed and i, up to rounding.

        Raises:
            ValueError: for a negative number.
        """
        if count < 0:
            raise ValueError(f"count: {count}; it may not be negative")
        return torch.from_numpy(sample_vectors(self.flow, count, seed))

    @torch.no_grad()
    def encode(self, x: Tensor | np.ndarray) -> Tensor:
        """Return the latents of vectors, both ``[N, D]``; float64. Under the model they have the base density.

        Raises:
            ValueError: for another shape, or anything but numbers.
        """
        exact = self._exact()
        return exact.encode(self._check("x", x).to(exact.base.mean.device))[0].cpu()

    @torch.no_grad()
    def decode(self, z: Tensor | np.ndarray) -> Tensor:
        """Return the vectors of latents, both ``[N, D]``; float64. It undoes ``encode`` up to rounding.

        Raises:
            ValueError: for another shape, or anything but numbers.
        """
        exact = self._exact()
        return exact.decode(self._check("z", z).to(exact.base.mean.device)).cpu()

    def _exact(self) -> Flow:
        return copy.deepcopy(self.flow).double()

    def _check(self, name: str, values: Tensor | np.ndarray) -> Tensor:
        """Return float64 ``[N, D]`` on the CPU."""
        num_dims = self.flow.num_dims
        if not isinstance(values, Tensor | np.ndarray) or values.ndim != 2 or values.shape[1] != num_dims:
            given = list(values.shape) if isinstance(values, Tensor | np.ndarray) else type(values).__name__
            raise ValueError(f"{name}: {given}, but this model takes [N, {num_dims}], a tensor or a numpy array")
        numbers = torch.from_numpy(values.astype(np.float64)) if isinstance(values, np.ndarray) else values
        return numbers.detach().cpu().double()
