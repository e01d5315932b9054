"""The network of three convolutions: products of matrices give what its layers say."""

import copy

import pytest
import torch

from glow.bijectors.actnorm import ActNorm
from glow.networks import dense
from glow.networks.convolutional import CouplingNet


def random(*shape, **options):
    return torch.randn(*shape, dtype=torch.float64, **options)


def network(seed=0, **options):
    """A float64 network with random parameters, whose ActNorms count as initialised."""
    torch.manual_seed(seed)
    net = CouplingNet(5, 8, 12, **options).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    for module in net.modules():
        if isinstance(module, ActNorm):
            module.initialized.fill_(True)
            module.is_initialized = True
    return net


@pytest.mark.parametrize("actnorm", [True, False])
@pytest.mark.parametrize("context_channels", [0, 4])
@pytest.mark.parametrize("padding", ["zeros", "ones", "indicator"])
@pytest.mark.parametrize("multiple", [1, 16])
def test_network_is_its_convolutions(monkeypatch, padding, context_channels, actnorm, multiple):
    monkeypatch.setattr(dense, "_multiple", lambda like: multiple)  # as on a GPU
    net = network(padding=padding, context_channels=context_channels, actnorm=actnorm)
    x, weight = random(3, 5, 6, 4, requires_grad=True), random(3, 12, 6, 4)
    context = random(3, 4, 1, 1) if context_channels else None
    results = []
    for compute in (net.compute, net.compute_layer_by_layer):
        output = compute(x, context)
        results.append([output, *torch.autograd.grad((output * weight).sum(), [x, *net.parameters()])])
    for actual, expected in zip(*results, strict=True):
        assert torch.allclose(actual, expected)


def test_matrices_of_a_network_are_never_stale():
    net, x = network().eval(), random(2, 5, 4, 4)

    def is_current():
        with torch.no_grad():
            return torch.equal(net(x), copy.deepcopy(net).train()(x))

    assert is_current()
    net.load_state_dict(network(seed=1).state_dict())
    assert is_current()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    net(x).square().sum().backward()
    optimizer.step()
    assert is_current()
    with torch.no_grad():
        net(x)
    fused = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)  # does not advance versions
    net.train()(x).square().sum().backward()
    fused.step()
    net.eval()
    assert is_current()
    with torch.no_grad():
        exact = net(x)
    net.compute_dtype = torch.bfloat16
    with torch.no_grad():
        assert 0 < (net(x) - exact).abs().max() < 0.1 * exact.abs().max()
    net.compute_dtype = None
    assert is_current()
