"""Signs of a flow's health: what each level contributes, how exact the inverse is, condition of the 1x1 weights."""

from __future__ import annotations

import torch

from glow.bijectors.conv1x1 import LUConv1x1, PlainConv1x1
from glow.data.loader import Batch
from glow.evaluation.likelihood import round_trip_error
from glow.images import bits_per_dim
from glow.model import Glow


@torch.no_grad()
def flow_health(model: Glow, batch: Batch) -> dict[str, float]:
    """Return numbers to watch, by name.

    ``health/inverse_error`` is max |x - decode(encode(x))| over the batch, ``health/level_<l>`` the mean contribution
    of a level in bits/dim, ``health/condition/<i>`` the condition number of the 1x1 weight in unit i of the chain: one
    that grows without end announces a singular weight.
    """
    parameter = next(model.parameters())
    cumulative = model.cumulative_log_prob(
        batch.images.to(parameter.device), batch.noise.to(parameter.device, parameter.dtype)
    )
    means = torch.stack([bits_per_dim(log_prob, model.num_dims).mean() for log_prob in cumulative]).diff()
    health = {f"health/level_{level}": mean for level, mean in enumerate(means.tolist(), start=1)}
    health["health/inverse_error"] = round_trip_error(model, batch)
    for number, unit in enumerate(model.chain):
        for module in unit.modules():
            if isinstance(module, LUConv1x1 | PlainConv1x1):
                health[f"health/condition/{number:03d}"] = float(torch.linalg.cond(module.weight().double()))
    return health
