"""Configurations of small models that differ in every part, and their gradients."""

import torch

VARIANTS = [
    {},
    {"coupling": "additive"},
    {"permutation": "plain"},
    {"image_shape": (1, 8, 4), "num_bits": 3},
    {"image_shape": (5, 4, 12), "num_levels": 1},
    {"image_shape": (2, 8, 16), "num_levels": 3, "num_bits": 1},
    {"coupling": "mixture", "num_mixtures": 3},
    {"coupling": "mixture", "network": "gated", "num_network_blocks": 1, "mask": "checkerboard", "num_levels": 1},
    {"scale": "exp", "permutation": "orthogonal", "network_padding": "indicator", "top_prior": "border"},
    {"scale": "tanh", "permutation": "reverse", "network_actnorm": False, "network_padding": "ones"},
    {"permutation": "shuffle", "split_prior": "standard", "top_prior": "standard", "mask": "checkerboard"},
    {"class_conditional": True, "num_classes": 3, "network": "gated", "num_network_blocks": 1},
    {"class_conditional": True, "num_classes": 3, "top_prior": "border", "network_padding": "ones"},
    {"dequantization": "variational", "dequantization_steps": 2, "class_conditional": True, "num_classes": 2},
    {"mask": "first_channels", "shift": "last"},
    {"split_prior": "pixel", "top_prior": "pixel", "class_conditional": True, "num_classes": 2},
]


def gradients(model, inputs):
    """Log-probabilities, and the gradient of their mean as one vector."""
    model.zero_grad()
    log_prob = model(*inputs)
    log_prob.mean().backward()
    return log_prob.detach(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
