"""The optimisers, and their state as tensors with names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from glow.config import OptimizerConfig
from glow.parallel.tensors import laid_out_like
from glow.training.freezing import trained_parameters
from glow.training.muon import Muon


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimiser of a configuration, fused where torch has fused kernels for CPU and GPU.

    Frozen parameters are left out.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    betas = (config.beta1, config.beta2)
    # Capturable: learning rate and numbers of steps lie on the GPU, so that a step can be recorded.
    options: dict[str, Any] = {"weight_decay": config.weight_decay, "capturable": parameters[0].is_cuda}
    match config.name:
        case "adam":
            return torch.optim.Adam(parameters, config.lr, betas, fused=True, **options)
        case "adamw":
            return torch.optim.AdamW(parameters, config.lr, betas, fused=True, **options)
        case "adamax":
            return torch.optim.Adamax(parameters, config.lr, betas, foreach=True, **options)
        case "muon":
            return Muon(parameters, config.lr, betas, config.weight_decay)
        case "sgd":
            nesterov = config.beta1 > 0
            return torch.optim.SGD(parameters, config.lr, config.beta1, 0, config.weight_decay, nesterov=nesterov)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state as tensors named ``<parameter>/<entry>``."""
    return {
        f"{name}/{entry}": torch.as_tensor(value)
        for name, parameter in trained_parameters(model).items()
        for entry, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that ``optimizer_tensors`` returned for the whole model; ``model`` may be a part of it.

    torch moves each tensor to the device where its optimisers want it.
    """
    parameters = trained_parameters(model)
    numbers = {name: number for number, name in enumerate(parameters)}
    state: dict[int, dict[str, Tensor]] = {number: {} for number in numbers.values()}
    for key, tensor in tensors.items():
        name, entry = key.rsplit("/", 1)
        if name in parameters:  # others belong to other stages of a pipeline
            parameter = parameters[name]
            is_like = tensor.shape == parameter.shape and tensor.dim() > 0
            state[numbers[name]][entry] = laid_out_like(tensor, parameter) if is_like else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
