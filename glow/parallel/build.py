"""Which layout the configuration chooses for a model."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn

from glow.config import TrainRun
from glow.cost.units import cut, unit_costs
from glow.execution.compiling import compile_steps
from glow.execution.precision import NETWORK_DTYPES
from glow.models.glow import Glow
from glow.parallel.layout import Layout, Replicated
from glow.parallel.pipelined import Pipelined
from glow.parallel.placement import Placement
from glow.parallel.recorded import Recorded
from glow.parallel.sharded import Sharded


def lay_out(model: nn.Module, run: TrainRun, placement: Placement, accelerator: Accelerator) -> Layout:
    """Lay a whole model over processes, with the weights of the main process (a collective).

    Use the model only through the layout afterwards.
    """
    # Decompositions of the first weights can differ in the last bits from one kind of machine to another.
    broadcast(model.state_dict())
    config = run.parallel
    if config.mode == "pipeline":
        assert isinstance(model, Glow)
        # Cached: the table of stages counted with the same arguments.
        dtype = NETWORK_DTYPES[accelerator.mixed_precision] or torch.float32
        device_type = accelerator.device.type
        costs = unit_costs(model.config, run.memory, run.anchor_every or None, dtype, device_type)
        return Pipelined(model, placement, accelerator, run, cut(costs, placement.num_stages))
    if config.mode != "ddp" and accelerator.num_processes > 1:
        assert isinstance(model, Glow)
        return Sharded(model, placement, accelerator, run)
    if run.compile:
        compile_steps(model)
    layout = Recorded if records_steps(run, accelerator.device.type) else Replicated
    return layout(model, placement, accelerator, config.reduce_dtype)


def records_steps(run: TrainRun, device: str) -> bool:
    """Return whether training steps on a kind of device are replayed as CUDA graphs.

    Raises:
        ValueError: when the configuration asks for it where it is not possible.
    """
    if run.cuda_graph and device != "cuda":
        raise ValueError("cuda_graph: true, but there is no GPU here; leave it out")
    if run.cuda_graph is None:
        # The matrix exponential of an orthogonal permutation looks at values on the host.
        can_be = run.memory != "reversible" and run.model.permutation != "orthogonal" and not run.is_of_vectors
        return device == "cuda" and run.parallel.mode == "ddp" and can_be
    return run.cuda_graph
