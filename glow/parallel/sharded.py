"""A sharded model: each process holds a shard of every parameter, and gathers a flow step when it is used."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from glow.bijectors.reuse import Reusing
from glow.config import ParallelConfig, TrainRun
from glow.models.glow import Glow
from glow.parallel.layout import Item, microbatches
from glow.parallel.placement import Placement
from glow.parallel.tensors import whole_tensors
from glow.parallel.whole import model_of


class Sharded:
    """Parameters, gradients and optimiser state are sharded by ``fully_shard``, one unit of the chain at a time.

    ``parallel.shards`` divides the processes into groups with neighbouring ranks. Each group shards the whole model.

    Source: Zhao et al. 2023 (PyTorch FSDP, arXiv 2304.11277); Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054).
    """

    def __init__(self, model: Glow, placement: Placement, accelerator: Accelerator, run: TrainRun) -> None:
        config = run.parallel
        self._batch_size = run.train.batch_size
        self.model = model
        self.placement = placement
        self._accelerator = accelerator
        shards = config.shards or placement.num_replicas
        self.num_copies = placement.num_replicas // shards
        mesh = init_device_mesh(
            accelerator.device.type, (self.num_copies, shards), mesh_dim_names=("replicate", "shard")
        )
        self._num_shards, self._group = shards, mesh["shard"].get_group()
        mesh = mesh if config.mode == "hsdp" else mesh["shard"]
        policy = MixedPrecisionPolicy(reduce_dtype=_reduce_dtype(config), cast_forward_inputs=False)
        for module in model.modules():
            if isinstance(module, Reusing):
                module.may_reuse = False
        for unit in model.chain:
            if any(True for _ in unit.parameters()):
                fully_shard(unit, mesh=mesh, mp_policy=policy)
        # Sharded again after the forward pass, like all others: weights are swapped and looked at between passes.
        fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)

    def backward(self, inputs: Sequence[Tensor], microbatch_size: int, scale: float) -> Tensor:
        """Add to the gradients. Each microbatch reduces them, because no process keeps whole gradients."""
        total = torch.zeros((), dtype=torch.float64, device=inputs[0].device)
        parts = [part for part, _ in microbatches(inputs, microbatch_size)]
        # As many rounds as the largest share needs: all processes take part in gathering a step's parameters.
        largest_share = math.ceil(self._batch_size / self.placement.num_replicas)
        for index in range(math.ceil(largest_share / microbatch_size)):
            is_real = index < len(parts)
            scaled = scale * is_real * self.log_prob(parts[index if is_real else -1]).sum()
            # The reduction takes the mean over processes.
            (self.placement.num_replicas * scaled).backward()
            total += scaled.detach()
        return total

    def log_prob(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the log-probabilities ``[N]``."""
        with warnings.catch_warnings():
            # Splits and some masks return views; nothing changes them in place.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
            return self.model(*inputs)

    def in_step(self, batches: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """Yield as many batches as the process with the most: all take part in gathering a step's parameters."""
        remaining = iter(batches)
        batch: Item | None = None
        while True:
            following = next(remaining, None)
            flag = torch.tensor(float(following is not None), device=self._accelerator.device)
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            if not flag:
                return
            batch = batch if following is None else following
            assert batch is not None, "a process without any batch"
            yield batch, following is not None

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gather the tensors, many in one collective."""
        # Other groups hold the same.
        return whole_tensors(tensors, self._group) if self._accelerator.process_index < self._num_shards else {}

    def whole_model(self) -> Glow | None:
        """Gather the weights into a new model."""
        return model_of(self.model, self.gather(self.model.state_dict()), self._accelerator)


def _reduce_dtype(config: ParallelConfig) -> torch.dtype | None:
    """Return the dtype of the reduction; None means the dtype of the gradients, float32 or float64."""
    return None if config.reduce_dtype == "float32" else getattr(torch, config.reduce_dtype)
