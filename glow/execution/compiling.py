"""Compilation of flow steps by torch.compile."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator

import torch
import torch._dynamo.exc
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
        ValueError: when there is no compiler.
    """
    _check_compiler(next(model.parameters()).device.type)
    torch._dynamo.config.recompile_limit = max(MAX_GRAPHS, torch._dynamo.config.recompile_limit)
    compiled = torch.compile(FlowStep.apply_parts, dynamic=False, fullgraph=True)
    for module in model.modules():
        if isinstance(module, FlowStep):
            module.compiled = compiled


def _check_compiler(device: str) -> None:
    """Raise a ValueError where there is no compiler: of C++ for CPUs, of C for Triton, which compiles for GPUs."""
    variable, usual, language = ("CXX", ["g++"], "C++") if device == "cpu" else ("CC", ["gcc", "clang", "cc"], "C")
    names = shlex.split(os.environ.get(variable, ""))[:1] or usual
    if not any(shutil.which(name) for name in names):
        raise ValueError(
            f"compile: true, but there is no {language} compiler ({' or '.join(names)}): install one, or name it in "
            f"{variable}"
        )


@contextlib.contextmanager
def failed_compilation_in_one_line() -> Iterator[None]:
    """Turn an error of torch.compile, which has a page of advice, into one line.

    Raises:
        ValueError: when the compilation failed.
    """
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"compile: true, but the flow steps cannot be compiled here ({reason}); leave it out"
        ) from error
