"""Anomaly scores, codes and AUROC: those of their formulas."""

import io

import numpy as np
import pytest
from PIL import Image

from glow.evaluation.anomaly import CODES, AnomalyScore, Auroc, Code, shortest_code
from glow.evaluation.likelihood import ImageScore


def test_scores_by_hand():
    found = AnomalyScore.of(ImageScore("a", None, 3.0, ()), Code(4.5, "png"), reference_bits_per_dim=3.25)
    assert (found.bits_per_dim, found.typicality, found.complexity_corrected) == (3.0, 0.25, -1.5)
    above = AnomalyScore.of(ImageScore("b", None, 4.0, ()), Code(1.0, "webp"), reference_bits_per_dim=3.25)
    assert (above.bits_per_dim, above.typicality, above.complexity_corrected) == (4.0, 0.75, 3.0)


def random_image(channels, kind):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (channels, 8, 6), dtype=np.uint8)
    return {"noise": noise, "constant": np.full_like(noise, 77), "one level at 3 bits": noise // 8}[kind]


def saved_bytes(pixels, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, **options)
    return len(stream.getvalue())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["noise", "constant", "one level at 3 bits"])
@pytest.mark.parametrize("num_bits", [3, 8])
def test_code_is_the_shortest_file_of_the_levels(channels, kind, num_bits):
    image = random_image(channels, kind)
    levels = image // 2 ** (8 - num_bits)
    pixels = levels[0] if channels == 1 else levels.transpose(1, 2, 0)
    sizes = {
        "png": saved_bytes(pixels, format="PNG", optimize=True),
        "webp": saved_bytes(pixels, format="WEBP", lossless=True, quality=100, method=4),
    }
    found = shortest_code(image, num_bits)
    assert found.bits_per_dim == 8 * min(sizes.values()) / (channels * 48)
    assert sizes[found.name] == min(sizes.values())


def test_every_code_can_be_decoded_to_the_same_image():
    pixels = random_image(3, "noise").transpose(1, 2, 0)
    for options in CODES.values():
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, **options)
        assert np.array_equal(np.asarray(Image.open(stream).convert("RGB")), pixels)


@pytest.mark.parametrize(("levels", "shift"), [(4, 1), (1000, -200), (1, 0)])
def test_auroc_is_the_share_of_pairs_in_order(levels, shift):
    rng = np.random.default_rng(levels)
    low, high = rng.integers(0, levels, 37), rng.integers(0, levels, 23) + shift
    pairs = [1.0 if b > a else 0.5 if a == b else 0.0 for a in low for b in high]
    assert Auroc.of(low, high).auroc == pytest.approx(np.mean(pairs), abs=1e-12)


def test_auroc_of_sets_apart_is_one_or_zero():
    assert Auroc.of([1, 2], [3, 4, 5]) == Auroc(1.0, 0.0)
    assert Auroc.of([3, 4, 5], [1, 2]) == Auroc(0.0, 0.0)
    assert Auroc.of([1], [3, 4]) == Auroc(1.0, None)


def test_standard_error_of_the_auroc_is_its_spread_over_other_images():
    rng = np.random.default_rng(0)
    draws = [Auroc.of(rng.normal(size=60), rng.normal(0.8, 2, 90)) for _ in range(400)]
    spread = np.std([draw.auroc for draw in draws])
    assert np.mean([draw.standard_error for draw in draws]) == pytest.approx(spread, rel=0.1)
