"""The health of a flow: log-det and prior of each level, error of the inverse, condition of the 1x1 weights."""

from __future__ import annotations

import torch

from glow.bijectors.conv1x1 import LUConv1x1, PlainConv1x1
from glow.data.read.batch import Batch
from glow.evaluation.likelihood import class_labels, round_trip_error
from glow.models.glow import Glow, standard_normal_log_prob
from glow.models.images import bits_per_dim


@torch.no_grad()
def flow_health(model: Glow, batch: Batch) -> dict[str, float]:
    """Return numbers to watch, by name.

    ``health/inverse_error`` is max |x - decode(encode(x))| over the batch. ``health/logdet_<l>`` and
    ``health/prior_<l>`` are the contributions of the log-determinants and of the latents of level l to the mean
    bits/dim. ``health/condition/<i>`` is the condition number of the 1x1 weight in unit i of the chain; if it grows
    without end, the weight becomes singular.
    """
    parameter = next(model.parameters())
    x, _ = model.dequantize(batch.images.to(parameter.device), batch.noise.to(parameter.device, parameter.dtype))
    context = model.context(class_labels(model, batch), x)
    health = {"health/inverse_error": round_trip_error(model, batch)}
    level, logdet = 1, x.new_zeros(len(x))
    for unit in model.chain:
        x, latent, unit_logdet = unit.encode(x, context)
        logdet = logdet + unit_logdet
        if latent is not None:
            for name, log_prob in (("logdet", logdet), ("prior", standard_normal_log_prob(latent))):
                health[f"health/{name}_{level}"] = float(bits_per_dim(log_prob, model.num_dims).mean())
            level, logdet = level + 1, torch.zeros_like(logdet)
    for number, unit in enumerate(model.chain):
        for module in unit.modules():
            if isinstance(module, LUConv1x1 | PlainConv1x1):
                health[f"health/condition/{number:03d}"] = float(torch.linalg.cond(module.weight().double()))
    return health
