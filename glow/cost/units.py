"""What a Glow costs, unit by unit of its chain: parameters, arithmetic, memory; and the cut into pipeline stages."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.base import Composition
from glow.config import ModelConfig
from glow.cost.tracing import Trace, forward_peak, trace
from glow.execution.memory import ChainRunner, Tape
from glow.execution.precision import set_compute_dtype
from glow.models.glow import Glow, Unit
from glow.networks.pixelwise import as_on_gpu

# Every cost is a number per image plus a number per pass. Two batch sizes are enough to find both.
BATCH_SIZES = (2, 4)


@dataclass(frozen=True)
class UnitCost:
    """What one unit of the chain costs."""

    num_parameters: int
    """Parameters."""
    num_buffers: int
    """Numbers in buffers, which are not trained."""
    num_macs: int
    """Multiply-accumulates of the forward pass per image. Work that does not grow with the number of images, such as
    computing the weights of 1x1 convolutions, is not counted."""
    kept_bytes: int
    """Memory kept for the backward pass, per image."""
    kept_weight_bytes: int
    """Memory kept for the backward pass, per pass: weights that are computed from parameters."""
    working_bytes: int
    """More memory while the unit runs, forward or backward, per image."""
    working_weight_bytes: int
    """More memory while the unit runs, per pass."""
    initial_bytes: int
    """Memory while the unit initialises its ActNorms, per image."""
    initial_weight_bytes: int
    """Memory while the unit initialises its ActNorms, per pass."""
    state_bytes: int
    """The input of the unit, per image: what one pipeline stage sends to the next."""
    is_step: bool
    """Whether it is a flow step."""


def unit_costs(
    config: ModelConfig,
    memory: str = "stored",
    anchor_every: int | None = None,
    network_dtype: torch.dtype = torch.float32,
    device_type: str = "cpu",
) -> list[UnitCost]:
    """Return the cost of each unit of ``model.chain``; the first includes the dequantisation.

    One unit of each kind runs on fake tensors, so nothing is allocated. Parameters, their gradients and the state of
    the optimiser are not part of the memory.

    Args:
        config: The model; its image shape must be set, and its number of classes if it has classes.
        memory: A mode of ``ChainRunner``.
        anchor_every: As for ``ChainRunner``.
        network_dtype: The dtype of the coupling networks.
        device_type: Type of the device, of which none is needed here. On a CPU, networks compute in blocks.

    Raises:
        ValueError: in the cases of ``Glow``.
    """
    with as_on_gpu(device_type == "cuda"):
        return list(_unit_costs(config, memory, anchor_every, network_dtype, device_type))


def cut(costs: Sequence[UnitCost], num_stages: int) -> list[range]:
    """Cut the chain into pipeline stages, so that the stage with the most arithmetic has as little as possible.

    Every stage has at least one flow step.

    Raises:
        ValueError: when there are fewer flow steps than stages.
    """
    num_steps = sum(cost.is_step for cost in costs)
    if not 1 <= num_stages <= num_steps:
        raise ValueError(f"{num_stages} pipeline stages: the model has {num_steps} flow steps; give 1 to {num_steps}")
    macs = _running_sum([cost.num_macs for cost in costs])
    steps = _running_sum([int(cost.is_step) for cost in costs])
    # best[end] is the best cut of the first ``end`` units into the stages so far: the most arithmetic of a stage, the
    # sum of squares over the stages (to choose among equals), and where the stages begin.
    best: dict[int, tuple[int, int, tuple[int, ...]]] = {0: (0, 0, ())}
    for _ in range(num_stages):
        following: dict[int, tuple[int, int, tuple[int, ...]]] = {}
        for end in range(1, len(costs) + 1):
            choices = [
                (max(most, macs[end] - macs[start]), squares + (macs[end] - macs[start]) ** 2, (*starts, start))
                for start, (most, squares, starts) in best.items()
                if steps[end] > steps[start]
            ]
            if choices:
                following[end] = min(choices)
        best = following
    starts = best[len(costs)][2]
    return [range(start, end) for start, end in zip(starts, (*starts[1:], len(costs)), strict=True)]


def _unit_costs(
    config: ModelConfig, memory: str, anchor_every: int | None, network_dtype: torch.dtype, device_type: str
) -> Iterator[UnitCost]:
    # All steps of a level cost the same, so one is enough, whatever their number.
    single = dataclasses.replace(config, num_steps_per_level=1)
    levels = _level_costs(single, memory, network_dtype, device_type)
    for num_steps, (squeeze, first, within, prior) in zip(config.steps, levels, strict=True):
        yield squeeze
        yield from (within if index % (anchor_every or num_steps) else first for index in range(num_steps))
        yield prior


@functools.lru_cache(maxsize=64)
def _level_costs(
    config: ModelConfig, memory: str, network_dtype: torch.dtype, _device_type: str
) -> tuple[tuple[UnitCost, ...], ...]:
    """Return the costs of each level: of the squeeze, of a step that begins a tape, of another step, of the prior."""
    if config.image_shape is None:
        raise ValueError("model.image_shape is not set: give channels, height and width")
    shape: tuple[int, ...] = config.image_shape
    costs: list[tuple[UnitCost, ...]] = []
    has_tape = memory == "reversible"
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = _ready(Glow(config), memory, network_dtype)
        for number, level in enumerate(model.levels):
            squeeze, step, prior = (model.chain[index] for index in level)
            before = _unit_cost(model, squeeze, shape) if number else _dequantization_cost(model, squeeze)
            shape = (4 * shape[0], shape[1] // 2, shape[2] // 2)
            within = _unit_cost(model, step, shape, memory)
            first = _unit_cost(model, step, shape, memory, holds_argument=True) if has_tape else within
            # A tape keeps the output of its last step.
            costs.append((before, first, within, _unit_cost(model, prior, shape, holds_argument=has_tape)))
            shape = (shape[0] - prior.num_latent_channels, *shape[1:])
    return tuple(costs)


def _ready(model: Glow, memory: str, network_dtype: torch.dtype) -> Glow:
    """Set memory mode and precision, and mark the ActNorms as initialised."""
    model.set_memory(memory)
    set_compute_dtype(model, None if network_dtype == torch.float32 else network_dtype)
    for module in model.modules():
        if isinstance(module, ActNorm):
            module.is_initialized = True
    return model.train()


def _dequantization_cost(model: Glow, squeeze: Unit) -> UnitCost:
    """Return the cost of the dequantisation and the first unit of the chain; the batch itself is kept throughout."""

    def leaves(size: int) -> list[Tensor]:
        shape = (size, *model.image_shape)
        return [torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape)]

    def run(images: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        return squeeze(*model.dequantize(images, noise))

    module = nn.Module() if model.dequantizer is None else model.dequantizer
    traces = [trace(run, module, leaves(size), holds_arguments=True) for size in BATCH_SIZES]
    initial = [forward_peak(run, module, leaves(size)) for size in BATCH_SIZES]
    return _cost(module, traces, initial, state_bytes=5 * model.num_dims)


def _unit_cost(
    model: Glow, unit: Unit, shape: tuple[int, ...], memory: str = "stored", holds_argument: bool = False
) -> UnitCost:
    """Return the cost of a unit for states of ``shape``; ``holds_argument``: something else keeps its input."""

    def leaves(size: int) -> list[Tensor]:
        return [torch.zeros(size, *shape, requires_grad=True), torch.zeros(size, requires_grad=True)]

    def run(x: Tensor, log_prob: Tensor) -> tuple[Tensor, ...]:
        context = torch.zeros(len(x), model.num_classes, 1, 1) if model.num_classes else None
        if memory != "reversible" or not torch.is_grad_enabled():
            return unit(x, log_prob, context)
        return _rebuilt(unit, x, log_prob, context)

    traces = [trace(run, unit, leaves(size), holds_argument) for size in BATCH_SIZES]
    with _waiting_for_data(unit):
        initial = [forward_peak(run, unit, leaves(size)) for size in BATCH_SIZES]
    is_step = isinstance(unit.bijector, Composition)
    return _cost(unit, traces, initial, state_bytes=4 * math.prod(shape), is_step=is_step)


@contextmanager
def _waiting_for_data(unit: Unit) -> Iterator[None]:
    """Take the path on which ActNorms are initialised: layer by layer."""
    actnorms = [module for module in unit.modules() if isinstance(module, ActNorm)]
    for actnorm in actnorms:
        actnorm.await_data(lambda _: None)
    yield
    for actnorm in actnorms:
        actnorm.await_data(None)


def _rebuilt(unit: Unit, x: Tensor, log_prob: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """Apply a flow step as in the middle of a tape: neither its input nor its output is kept."""
    tape = Tape(x[:0].clone(), ChainRunner("reversible"))
    tape.num_steps = 1
    z, log_prob = unit(x, log_prob, context, tape)

    def arrive(grad: Tensor) -> None:
        tape.state = torch.zeros_like(grad)

    z.register_hook(arrive)
    return z, log_prob


def _cost(
    module: nn.Module, traces: Sequence[Trace], initial: Sequence[int], state_bytes: int, is_step: bool = False
) -> UnitCost:
    """Separate the costs per image from the costs per pass."""
    kept = _line([each.kept_bytes for each in traces])
    working = _line([each.peak_bytes - each.kept_bytes for each in traces])
    return UnitCost(
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
        num_buffers=sum(buffer.numel() for buffer in module.buffers()),
        num_macs=_line([each.num_macs for each in traces])[0],
        kept_bytes=kept[0],
        kept_weight_bytes=kept[1],
        working_bytes=working[0],
        working_weight_bytes=working[1],
        initial_bytes=_line(initial)[0],
        initial_weight_bytes=_line(initial)[1],
        state_bytes=state_bytes,
        is_step=is_step,
    )


def _line(values: Sequence[int]) -> tuple[int, int]:
    """Return slope and intercept of the line through the values at BATCH_SIZES."""
    slope = (values[1] - values[0]) // (BATCH_SIZES[1] - BATCH_SIZES[0])
    return slope, max(0, values[0] - slope * BATCH_SIZES[0])


def _running_sum(values: Sequence[int]) -> list[int]:
    return list(itertools.accumulate(values, initial=0))
