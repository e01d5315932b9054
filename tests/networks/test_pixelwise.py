"""Three dense layers, in blocks of rows."""

import pytest
import torch
from torch.nn import functional as F

from glow.networks import pixelwise
from glow.networks.pixelwise import three_layers


def random(*shape, **options):
    return torch.randn(*shape, dtype=torch.float64, **options)


def value_and_gradients(function, arguments, weight):
    output = function(*arguments)
    leaves = [argument for argument in arguments if argument.requires_grad]
    return [output, *torch.autograd.grad((output * weight).sum(), leaves)]


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
