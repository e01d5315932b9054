"""Compilation of flow steps by torch.compile."""

from __future__ import annotations

import os
import shlex
import shutil

import torch
from torch import nn

from glow.bijectors.step import FlowStep

# Compiled graphs of one function. Each level, and each size of microbatch, needs its own.
MAX_GRAPHS = 64


def compile_steps(model: nn.Module) -> None:
    """Compile the flow steps of an initialised model, for passes that record gradients.

    All steps share one compiled function, so each level is compiled once, however many steps it has. That happens in
    the first training step, which takes up to a minute longer. A step whose input needs no gradient runs uncompiled: it
    would need another graph. The matrix products of ``CouplingNet`` are operators in the graphs.

    Raises:
        ValueError: when there is no C++ compiler.
    """
    compiler = (shlex.split(os.environ.get("CXX", "")) or ["g++"])[0]
    if next(model.parameters()).device.type == "cpu" and shutil.which(compiler) is None:
        raise ValueError(f"compile: true, but there is no C++ compiler ({compiler}): install one, or name it in CXX")
    torch._dynamo.config.recompile_limit = max(MAX_GRAPHS, torch._dynamo.config.recompile_limit)
    compiled = torch.compile(FlowStep.apply_parts, dynamic=False, fullgraph=True)
    for module in model.modules():
        if isinstance(module, FlowStep):
            module.compiled = compiled
