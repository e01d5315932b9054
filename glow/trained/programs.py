"""Programs of torch.export: log-probability and samples for programs that do not have glow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram, export
from torch.fx import GraphModule

from glow.models.glow import Glow
from glow.sampling.groups import group_size


class _LogProb(nn.Module):
    def __init__(self, glow: Glow) -> None:
        super().__init__()
        self.glow = glow

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.glow(images, noise, labels)


class _Sample(nn.Module):
    def __init__(self, glow: Glow) -> None:
        super().__init__()
        self.glow = glow

    def forward(self, noise: Tensor, temperature: Tensor, labels: Tensor | None = None) -> Tensor:
        numbers = cast("Sequence[float]", temperature.unbind())  # the user of the program gives them
        return self.glow.sample(noise, numbers, labels)


@torch.no_grad()
def to_programs(glow: Glow) -> dict[str, ExportedProgram]:
    """Return the programs ``log_prob`` and ``sample`` of a model, for inference on the device of the model.

    They hold the weights, and call operators of torch alone. Their numbers are those of the model, up to rounding. The
    batch B is fixed: 64, and fewer for images larger than 32x32. Fill a smaller batch up with anything.

    - ``log_prob(images, noise)``: uint8 ``[B, C, H, W]`` and noise in (0, 1) of that shape; returns ``[B]``, in nats.
    - ``sample(noise, temperature)``: standard normal ``[B, C * H * W]``, and one temperature a level ``[L]``; returns
      uint8 ``[B, C, H, W]``.

    Those of a class-conditional model take labels, int64 ``[B]``, as a last argument. A model with mixture couplings
    has no ``sample``: how many iterations they need depends on the numbers.
    """
    parameter = next(glow.parameters())
    batch = group_size(glow.image_shape)
    images = torch.zeros(batch, *glow.image_shape, dtype=torch.uint8, device=parameter.device)
    noise = torch.full_like(images, 0.5, dtype=parameter.dtype)
    temperature = parameter.new_ones(len(glow.latent_shapes))
    labels = (images[:, 0, 0, 0].long(),) if glow.num_classes else ()
    programs = {"log_prob": _export(_LogProb(glow), images, noise, *labels)}
    if glow.config.coupling != "mixture":
        programs["sample"] = _export(_Sample(glow), noise.flatten(1), temperature, *labels)
    return programs


def _export(module: nn.Module, *arguments: Tensor) -> ExportedProgram:
    program = export(module.eval(), arguments)
    for part in program.graph_module.modules():
        if isinstance(part, GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)  # it has paths of this machine
    return program
