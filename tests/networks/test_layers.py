"""Convolutions with ActNorm folded in."""

import torch
from conftest import perturb
from exactness import build, examples


def test_coupling_net_starts_at_zero_and_folds_its_actnorm_exactly():
    net = build("affine sigmoid", 0.0).net
    x = examples(3)[:, :2]
    assert torch.equal(net(x), torch.zeros_like(net(x)))
    perturb(net, 0.3)
    conv = net.conv1
    unfolded = conv.actnorm(torch.nn.functional.conv2d(x, conv.weight, padding=1))[0]
    assert torch.allclose(conv(x), unfolded, atol=1e-12)
