import copy

import pytest
import torch
from torch.nn import functional as F

from glow.bijectors.actnorm import ActNorm
from glow.networks import pixelwise
from glow.networks.convolutional import CouplingNet
from glow.networks.pixelwise import three_layers
from glow.networks.windows import overlaps, windows


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


def value_and_gradients(function, arguments, weight):
    output = function(*arguments)
    leaves = [argument for argument in arguments if argument.requires_grad]
    return [output, *torch.autograd.grad((output * weight).sum(), leaves)]


@pytest.mark.parametrize(("height", "width"), [(4, 6), (1, 5), (1, 1)])
def test_windows_make_a_convolution_a_product(height, width):
    x, weight = random(2, 3, height, width), random(4, 3, 3, 3)
    rows = windows(x.permute(0, 2, 3, 1))
    product = (rows @ weight.permute(0, 2, 3, 1).flatten(1).T).permute(0, 3, 1, 2)
    assert torch.allclose(product, F.conv2d(x, weight, padding=1))


def test_overlaps_are_the_adjoint_of_windows():
    x, columns = random(2, 4, 5, 3, requires_grad=True), random(2, 4, 5, 27, requires_grad=True)
    assert torch.allclose((windows(x) * columns).sum(), (x * overlaps(columns)).sum())
    assert torch.autograd.gradcheck(windows, x)
    assert torch.autograd.gradcheck(overlaps, columns)


@pytest.mark.parametrize("block_bytes", [1 << 30, 8 * 8 * 7, 1])
def test_layers_are_the_same_in_blocks(monkeypatch, block_bytes):
    torch.manual_seed(0)
    monkeypatch.setattr(pixelwise, "BLOCK_BYTES", block_bytes)
    shapes = [(30, 5), (8, 5), (8,), (8, 8), (8,), (3, 8)]
    arguments = [random(*shape, requires_grad=True) for shape in shapes]

    def plainly(rows, w1, b1, w2, b2, w3):
        return F.linear(F.linear(F.linear(rows, w1, b1).relu(), w2, b2).relu(), w3)

    def in_blocks(rows, w1, b1, w2, b2, w3):
        return three_layers(rows, (w1, b1), (w2, b2), w3)

    weight = random(30, 3)
    for expected, actual in zip(
        *(value_and_gradients(f, arguments, weight) for f in (plainly, in_blocks)), strict=True
    ):
        assert torch.allclose(expected, actual)
    with torch.no_grad():
        assert torch.allclose(plainly(*arguments), in_blocks(*arguments))


def test_no_rows_are_no_rows():
    layers = [random(8, 5), random(8)], [random(8, 8), random(8)], random(3, 8)
    assert three_layers(random(0, 5), *layers).shape == (0, 3)


@pytest.mark.parametrize("actnorm", [True, False])
@pytest.mark.parametrize("context_channels", [0, 4])
@pytest.mark.parametrize("padding", ["zeros", "ones", "indicator"])
def test_network_is_its_convolutions(padding, context_channels, actnorm):
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
