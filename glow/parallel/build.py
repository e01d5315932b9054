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
        costs = unit_costs(model.config, run.memory, run.anchor_every or None, dtype)
        return Pipelined(model, placement, accelerator, run, cut(costs, placement.num_stages))
    if config.mode != "ddp" and accelerator.num_processes > 1:
        assert isinstance(model, Glow)
        return Sharded(model, placement, accelerator, run)
    if run.compile:
        compile_steps(model)
    return Replicated(model, placement, accelerator, config.reduce_dtype)
