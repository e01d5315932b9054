"""A pipelined model: its chain is cut into stages, one for each process of a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from glow.config import TrainRun
from glow.models.glow import Glow
from glow.parallel.layout import Item, to_host
from glow.parallel.placement import Placement
from glow.parallel.stage import Stage, keep_units
from glow.parallel.tensors import local_gradients
from glow.parallel.whole import model_of


class Pipelined:
    """Each process holds some consecutive units. The state and the running log-probability pass between stages.

    Microbatches follow the 1F1B schedule. Several pipelines share the batch and add up their gradients.

    Source: Narayanan et al. 2021 (PipeDream-2BW, arXiv 2006.09503), section 2; Huang et al. 2019 (GPipe, arXiv
    1811.06965).

    Raises:
        ValueError: when all parameters of a stage are frozen.
    """

    def __init__(
        self, model: Glow, placement: Placement, accelerator: Accelerator, run: TrainRun, stages: Sequence[range]
    ) -> None:
        for number, units in enumerate(stages, 1):
            if not any(p.requires_grad for index in units for p in model.chain[index].parameters()):
                raise ValueError(
                    f"freeze: no parameter of stage {number} of {len(stages)} is left to train; give fewer "
                    "parallel.stages"
                )
        self.model = model
        self.placement = placement
        self.num_copies = placement.num_replicas
        self._accelerator = accelerator
        self._reduce_dtype = getattr(torch, run.parallel.reduce_dtype)
        shape = (placement.num_stages, placement.num_replicas)
        mesh = init_device_mesh(accelerator.device.type, shape, mesh_dim_names=("stage", "replica"))
        self._replicas = mesh["replica"].get_group()
        self._stage = Stage(model, stages[placement.stage])
        keep_units(model, stages[placement.stage])
        share = run.train.batch_size // placement.num_replicas
        size = run.train.microbatch_size or share
        dtype = next(model.parameters()).dtype
        pipeline_stage = PipelineStage(
            self._stage,
            placement.stage,
            placement.num_stages,
            accelerator.device,
            input_args=self._stage.inputs_like(size, dtype, "meta"),
            output_args=self._stage.outputs_like(size, dtype, "meta"),
            group=mesh["stage"].get_group(),
        )
        self._scale = 1.0  # of the loss; the schedule reads it through _loss
        self._schedule = Schedule1F1B(pipeline_stage, share // size, self._loss, scale_grads=False)

    def backward(self, inputs: Sequence[Tensor], microbatch_size: int, scale: float) -> Tensor:
        """Add to the gradients. All processes of a pipeline get the same inputs."""
        self._scale = scale
        images, noise, *labels = inputs
        losses: list[Tensor] = []
        arguments: dict[str, Any] = {"labels": labels[0]} if labels else {}
        if self._stage.is_last:
            # The loss ignores the target, but a schedule needs one.
            arguments |= {"target": noise.new_zeros(len(noise)), "losses": losses}
        self._schedule.step(*([images, noise] if self._stage.is_first else []), **arguments)
        self._add_up_gradients()
        return sum((loss.detach().double() for loss in losses), noise.new_zeros((), dtype=torch.float64))

    def log_prob(self, inputs: Sequence[Tensor]) -> Tensor | None:
        """Return the log-probabilities ``[N]`` on the last process of the pipeline, None on the others."""
        images, noise, *labels = inputs
        arguments: tuple[Tensor, ...] = (images, noise)
        placement = self.placement
        rank = self._accelerator.process_index
        if not self._stage.is_first:
            arguments = tuple(like.detach() for like in self._stage.inputs_like(len(noise), noise.dtype, noise.device))
            for value in arguments:
                dist.recv(value, rank - placement.num_replicas)
        outputs = self._stage(*arguments, labels=labels[0] if labels else None)
        if self._stage.is_last:
            return outputs
        for value in outputs:
            dist.send(value, rank + placement.num_replicas)
        return None

    def in_step(self, batches: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """Yield all batches: the processes of a pipeline have the same."""
        return ((batch, True) for batch in batches)

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Send the tensors of the first pipeline's stages to the main process."""
        is_main, device = self._accelerator.is_main_process, self._accelerator.device
        held = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()]
        descriptions = gather_object([held])
        gathered = to_host(tensors) if is_main else {}
        for stage in range(1, self.placement.num_stages):
            source = stage * self.placement.num_replicas
            if self._accelerator.process_index == source:
                for tensor in tensors.values():
                    dist.send(tensor.detach().to(device).contiguous(), 0)
            elif is_main:
                for name, shape, dtype in descriptions[source]:
                    received = torch.empty(shape, dtype=dtype, device=device)
                    dist.recv(received, source)
                    gathered[name] = received.cpu()
        return gathered

    def whole_model(self) -> Glow | None:
        """Gather the weights into a new model."""
        return model_of(self.model, self.gather(self.model.state_dict()), self._accelerator)

    def _loss(self, log_prob: Tensor, _: Tensor) -> Tensor:
        return self._scale * log_prob.sum()

    def _add_up_gradients(self) -> None:
        """Sum the gradients of all pipelines (a collective)."""
        count = self.placement.num_replicas
        if count == 1:
            return
        gradients = local_gradients(self.model.parameters())
        # Mean, not sum: in 16 bits a sum can overflow.
        dtype = gradients[0].dtype if self._reduce_dtype == torch.float32 else self._reduce_dtype
        flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(count).to(dtype)
        dist.all_reduce(flat, group=self._replicas)
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient)).mul_(count)
