"""Compilation of flow steps by torch.compile."""

from __future__ import annotations

import os
import shlex
import shutil

import torch
from torch import nn

from glow.bijectors.step import FlowStep

# Graphs of one function: each level and size of microbatch has its own.
MAX_GRAPHS = 64


def compile_steps(model: nn.Module) -> None:
    """Let the flow steps of an initialised model run compiled where gradients are recorded.

    They share one compiled function, so that each level is compiled once, however many steps it has: at the first
    training step, which takes up to a minute longer. A flow step whose input has no gradient is left as it is: it would
    need a graph of its own. Coupling networks of plain convolutions are operators in the graphs.

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
