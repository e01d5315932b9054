"""Windows of pixels, and their adjoint."""

import pytest
import torch
from torch.nn import functional as F

from glow.networks.windows import overlaps, windows


def random(*shape, **options):
    return torch.randn(*shape, dtype=torch.float64, **options)


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


def test_wider_windows_end_in_zeros_and_their_adjoint_ignores_the_end():
    x, columns = random(2, 4, 5, 3, requires_grad=True), random(2, 4, 5, 32, requires_grad=True)
    wide = windows(x, 32)
    assert torch.equal(wide[..., :27], windows(x))
    assert not wide[..., 27:].any()
    assert torch.equal(overlaps(columns, 3), overlaps(columns[..., :27]))
    assert torch.autograd.gradcheck(lambda x: windows(x, 32), x)
    assert torch.autograd.gradcheck(lambda columns: overlaps(columns, 3), columns)
