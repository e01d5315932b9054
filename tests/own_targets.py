"""Targets as a user may write them: some are right, the others are of no use."""

import math

import numpy as np
import torch


def correlated(x):
    """A Gaussian with means 1 and -2, standard deviations 1 and 0.5, correlation 0.6, and integral e^3."""
    a, b = x[:, 0] - 1, (x[:, 1] + 2) / 0.5
    quadratic = (a.square() - 1.2 * a * b + b.square()) / (1 - 0.6**2)
    return 3 - 0.5 * quadratic - math.log(2 * math.pi * 0.5 * math.sqrt(1 - 0.6**2))


def two_columns(x):
    return x[:, :1]


def one_number(x):
    return -x.square().sum()


def a_number(x):
    return 1.0


def not_a_number(x):
    return torch.where(x[:, 0] > 0, -x.square().sum(1), torch.nan)


def bounded(x):
    return torch.where(x.abs().amax(1) < 0.5, 0.0, -torch.inf) + 0 * x[:, 0]


def of_numpy(x):
    return torch.from_numpy(-np.square(x.detach().numpy()).sum(1))


def apart(x):
    return (x.detach() * torch.ones(2, requires_grad=True)).sum(1)


def of_complex(x):
    return x.sum(1).to(torch.complex64)


def divided(x):
    return x[:, 0] / (1 // 0)


def of_matrices(x):
    return -(x @ torch.eye(2) * x).sum(1)


def of_three(x):
    return -(x @ torch.ones(3)).square()


def kink(x):
    return -x.square().sum(1) - (0 * x[:, 0]).sqrt()


number = 3
