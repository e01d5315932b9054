"""Affine couplings, and the masks that cut a state in two halves."""

import torch
from exactness import build, examples

from glow.bijectors.mask import ChannelMask, CheckerboardMask


def test_log_scale_of_affine_coupling_does_not_underflow():
    coupling = build("affine sigmoid", 0.0)
    with torch.no_grad():
        coupling.net.conv3.bias[2:] = -200.0
    z, logdet = coupling(examples(2))
    assert logdet.isfinite().all()
    assert (logdet + 198 * 16).abs().max() < 1
    assert z.isfinite().all()


def test_first_half_passes_through_a_coupling():
    x = examples(2)
    assert torch.equal(build("affine sigmoid", 0.3)(x)[0][:, :2], x[:, :2])


def test_checkerboard_keeps_every_other_pixel():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    for parity in (0, 1):
        mask = CheckerboardMask(parity)
        x_a, x_b = mask.split(x)
        assert torch.equal(mask.join(x_a, x_b), x)
        rows, columns = torch.arange(4)[:, None], torch.arange(4)
        is_given = (rows + columns + parity) % 2 == 0
        assert torch.equal(mask.given(x_a)[0, 0], x[0, 0] * is_given)
        assert sorted(mask.changed(x).flatten().tolist()) == x[0, 0][~is_given].tolist()


def test_halves_of_an_odd_vector_are_changed_in_turn():
    x = torch.arange(5.0)[None]
    for parity, given in ((0, [0, 1, 2]), (1, [3, 4])):
        mask = ChannelMask(parity)
        x_a, x_b = mask.split(x)
        assert x_a[0].tolist() == given
        assert mask.sizes(5) == (len(given), 5 - len(given))
        assert torch.equal(mask.join(x_a, x_b), x)
