"""Images depend on the seed and their number alone, and a grid holds them pixel by pixel."""

import numpy as np
import pytest
import torch
from conftest import tiny_glow

from glow.sampling.groups import aligned_ranges, group_size
from glow.sampling.images import Draw, image_grid, number_of_class, sample_images


def draw(model, indices, temperature=0.7, batch_size=64, seed=0):
    return torch.cat(list(sample_images(model, indices, temperature, Draw(seed), batch_size)))


def test_image_i_depends_on_seed_and_i_alone():
    model = tiny_glow(torch.float32)
    images = draw(model, range(150))
    assert images.dtype == torch.uint8
    for batch_size in (1, 7, 64):
        assert torch.equal(draw(model, range(150), batch_size=batch_size), images)
    assert torch.equal(draw(model, range(61, 130)), images[61:130])
    assert torch.equal(draw(model, range(149, 150)), images[149:])
    assert not torch.equal(draw(model, range(150), seed=1), images)


def test_groups_are_cut_at_multiples_of_their_size():
    assert [list(r) for r in aligned_ranges(range(3, 9), 4)] == [[3], [4, 5, 6, 7], [8]]
    assert [group_size((3, side, side)) for side in (8, 32, 64, 256, 512)] == [64, 64, 16, 1, 1]


def test_samples_that_are_not_finite_are_named():
    model = tiny_glow(torch.float32)
    with pytest.warns(UserWarning, match=r"image 3 at temperature 1e\+38 is not finite"):
        draw(model, range(3, 4), 1e38)


def test_grid_holds_the_images_pixel_by_pixel():
    images = torch.randint(0, 256, (5, 3, 60, 50), dtype=torch.uint8)
    grid = image_grid(images)
    assert grid.shape == (1 + 2 * 61, 1 + 3 * 51, 3)
    assert np.array_equal(grid[62:122, 52:102], images[4].permute(1, 2, 0).numpy())
    small = image_grid(torch.full((4, 1, 8, 8), 200, dtype=torch.uint8))
    assert small.shape == (105, 105, 3)
    assert (small[3:51, 3:51] == 200).all()


def test_class_is_given_by_number_or_name():
    names = ("Ankle boot", "Bag")
    assert [number_of_class(label, names) for label in (None, 7, "Bag")] == [None, 7, 1]
    with pytest.raises(ValueError, match=r"label: 'Hat' is none of the classes, which are Ankle boot, Bag$"):
        number_of_class("Hat", names)
    with pytest.raises(ValueError, match="label: 'Bag', but the checkpoint holds no names of classes; give a number"):
        number_of_class("Bag", None)
