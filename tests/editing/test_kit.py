"""The kit: each function against a formula of its own, on small models and vectors."""

import json

import numpy as np
import pytest
import torch
from conftest import random_inputs, tiny_config, tiny_glow
from torch.distributions import MultivariateNormal

import glow
from glow.editing.attributes import (
    TENSORS,
    Attribute,
    Directions,
    apply_direction,
    find_directions,
    fit_logistic,
    flatten,
    load_directions,
    save_directions,
)
from glow.editing.classifier import accuracy, classifier_bytes, features_of, load_classifier, train_classifier
from glow.editing.distances import frechet, squared_mmd, with_error
from glow.editing.interpolate import interpolate, linear, spherical
from glow.editing.levels import draw_latents, mix_levels, resample_level
from glow.editing.neighbours import nearest, share_nearer
from glow.editing.reconstruct import bits_of_density, likeliest_labels, reconstruct

CLASSES = {"class_conditional": True, "num_classes": 3}


@pytest.fixture(params=[{}, CLASSES], ids=["plain", "classes"])
def case(request):
    """A model in float64, five images, and labels if it takes them."""
    config = tiny_config(**request.param)
    images, _, *labels = random_inputs(config, 5)
    return glow.TrainedGlow(tiny_glow(**request.param)), images, labels[0] if labels else None


def test_density_of_a_point_is_that_of_autograd(case):
    model, images, labels = case
    points = model.points(images)
    latents, density = model.encode_points(points, labels=labels)
    one = None if labels is None else labels[:1]

    def encoded(x):
        return flatten(model.glow.encode(x.view(1, 3, 8, 8), one)[0])[0]

    jacobian = torch.autograd.functional.jacobian(encoded, points[0].flatten())
    z = flatten(latents)[0]
    expected = MultivariateNormal(torch.zeros(192).double(), torch.eye(192).double()).log_prob(z)
    expected = expected + torch.linalg.slogdet(jacobian).logabsdet
    assert float(density[0]) == pytest.approx(float(expected), rel=1e-9)


def test_reconstruction_gives_images_back_with_their_probability(case):
    model, images, labels = case
    keys = [f"k{number}" for number in range(5)]
    back, found = reconstruct(model, images, labels, seed=3, keys=keys)
    assert torch.equal(back, images)
    bits = model.bits_per_dim(images, labels=labels, seed=3, keys=keys)
    assert [item.bits_per_dim for item in found] == bits.tolist()
    for item in found:
        assert item.num_wrong_pixels == 0
        assert 0 < item.max_abs_error < 1e-12
        assert sum(item.parts) == pytest.approx(item.bits_per_dim, rel=1e-12)
        # The density hardly changes within a cell of 8 bits.
        assert bits_of_density(item.log_density_nats, 192, 8) == pytest.approx(item.bits_per_dim, abs=0.3)


def test_a_wrong_inverse_shows_in_the_reconstruction():
    model = glow.TrainedGlow(tiny_glow())
    images, _ = random_inputs(tiny_config(), 2)
    decode = model.glow.decode
    model.glow.decode = lambda latents, labels=None: decode(latents, labels) + 0.01
    _, found = reconstruct(model, images)
    assert found[0].max_abs_error == pytest.approx(0.01)
    assert found[0].num_wrong_pixels > 100


def test_most_probable_class_is_that_of_each_class_alone(case):
    model, images, labels = case
    found = likeliest_labels(model, images)
    if labels is None:
        assert found is None
        return
    by_class = [model.log_prob(images, labels=torch.full((5,), number)) for number in range(3)]
    assert found.tolist() == torch.stack(by_class).argmax(0).tolist()


def test_spherical_path_turns_evenly_and_keeps_the_norm():
    a, b = torch.tensor([3.0, 0, 0]).double(), torch.tensor([0, 3.0, 0]).double()
    for weight in (0.0, 0.25, 0.5, 1.0):
        angle = weight * np.pi / 2
        expected = 3 * torch.tensor([np.cos(angle), np.sin(angle), 0])
        torch.testing.assert_close(spherical(a, b, weight), expected)
    assert spherical(a, 2 * b, 0.5).norm() == pytest.approx(4.5)
    assert linear(a, b, 0.5).tolist() == [1.5, 1.5, 0]
    for other in (2 * a, -a, 0 * a):  # no arc, or none of its own
        torch.testing.assert_close(spherical(a, other, 0.5), (a + other) / 2)


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_path_goes_through_its_images(case, path):
    model, images, labels = case
    found, classes = interpolate(model, images[:3], None if labels is None else labels[:3], path, num_steps=4)
    assert len(found) == 9
    assert torch.equal(found[::4], images[:3])
    assert not torch.equal(found[1], found[0])
    if labels is not None:
        assert classes.tolist() == labels[[0, 0, 0, 1, 1, 1, 1, 2, 2]].tolist()
    with pytest.raises(ValueError, match="1 given; a path needs two or more"):
        interpolate(model, images[:1], None if labels is None else labels[:1])


def test_levels_are_mixed_and_drawn_anew_one_by_one(case):
    model, images, labels = case
    a = model.encode(images, labels=labels)
    b = draw_latents(model, 5, seed=4)
    mixed = mix_levels(a, b, [2])
    assert torch.equal(mixed[0], a[0])
    assert torch.equal(mixed[1], b[1])
    anew = resample_level(model, a, 1, seed=4, temperature=0.5)
    assert torch.equal(anew[0], 0.5 * b[0])
    assert torch.equal(anew[1], a[1])
    for level in (0, 3):
        with pytest.raises(ValueError, match=rf"levels: {level} is not allowed; the model has levels 1 .* to 2"):
            mix_levels(a, b, [level])


def test_drawn_latents_are_those_of_samples():
    model = glow.TrainedGlow(tiny_glow())
    latents = draw_latents(model, 3, seed=2, temperature=[0.3, 0.9])
    assert torch.equal(model.decode(latents), model.sample(3, seed=2, temperature=[0.3, 0.9]))


def gaussian_classes(count, seed, shift=3.0):
    """Points of N(0, I) in 6 dimensions, half of them shifted along the first."""
    rng = torch.Generator().manual_seed(seed)
    has = torch.arange(count) % 2 == 0
    points = torch.randn(count, 6, generator=rng, dtype=torch.float64)
    points[has, 0] += shift
    return points, torch.stack([has, ~has], dim=1)


def test_directions_are_the_differences_of_means_and_the_normals_of_a_regression():
    fit, held_out = gaussian_classes(4000, 0), gaussian_classes(4000, 1)
    found = find_directions(["yes", "no"], fit, held_out)
    points, has = fit
    expected = points[has[:, 0]].mean(0) - points[~has[:, 0]].mean(0)
    torch.testing.assert_close(found.of("yes", "mean"), expected.float())
    torch.testing.assert_close(found.of("no", "mean"), -expected.float())
    normal = found.of("yes", "logistic")
    assert normal[0] == pytest.approx(3, abs=0.1)
    assert normal[1:].abs().max() < 0.25
    best = float(torch.special.ndtr(torch.tensor(1.5)))  # of the best classifier: 0.933
    for attribute in found.attributes:
        assert attribute.accuracy_mean == pytest.approx(best, abs=0.02)
        assert attribute.accuracy_logistic == pytest.approx(best, abs=0.02)
        assert (attribute.num_with, attribute.num_without, attribute.base_rate) == (2000, 2000, 0.5)


def test_logistic_regression_is_where_the_gradient_is_zero():
    x, has = gaussian_classes(200, 0, shift=1.0)
    y = has.double()
    weight, bias = fit_logistic(x, y, penalty=2.0)
    residual = torch.sigmoid(x @ weight.T + bias) - y
    torch.testing.assert_close(residual.T @ x + 2.0 * weight, torch.zeros(2, 6).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(residual.sum(0), torch.zeros(2).double(), atol=1e-4, rtol=0)


def test_a_direction_moves_all_levels():
    latents = draw_latents(glow.TrainedGlow(tiny_glow()), 2, seed=0)
    direction = torch.randn(192)
    moved = apply_direction(latents, direction, -0.5)
    torch.testing.assert_close(flatten(moved), flatten(latents) - 0.5 * direction)


def test_attributes_that_all_images_have_are_refused():
    points, has = gaussian_classes(10, 0)
    with pytest.raises(ValueError, match="attribute all: 10 of 10 images have it; there must be both kinds"):
        find_directions(["all"], (points, torch.ones_like(has[:, :1])), (points, has[:, :1]))


def test_directions_are_read_as_they_were_written(tmp_path):
    attributes = tuple(Attribute(name, 2, 8, 5, 0.5, 0.75, 0.875) for name in ("a<b>", "c"))
    written = Directions(attributes, torch.randn(2, 7), torch.randn(2, 7))
    save_directions(tmp_path, written, {"weights": "ema", "checkpoint": {"step": 1}})
    found = load_directions(tmp_path, 7)
    assert found.attributes == attributes
    assert torch.equal(found.of("c", "logistic"), written.logistic[1])
    with pytest.raises(ValueError, match=r"tensor 'mean' is not finite float32 \[2, 8\]"):
        load_directions(tmp_path, 8)
    with pytest.raises(ValueError, match="attribute: 'd' is none of the saved ones, which are a<b>, c"):
        found.of("d", "mean")
    (tmp_path / TENSORS).write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(ValueError, match="tensor 'mean' is not"):
        load_directions(tmp_path, 7)
    (tmp_path / TENSORS).write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged"):
        load_directions(tmp_path, 7)


def test_neighbours_are_the_nearest_rows():
    rng = np.random.default_rng(0)
    queries, reference = rng.normal(size=(30, 2, 3)), rng.normal(size=(40, 2, 3))
    found = nearest(torch.tensor(queries), torch.tensor(reference), 2, chunk=7)
    distances = np.linalg.norm((queries[:, None] - reference[None]).reshape(30, 40, 6), axis=2)
    assert np.array_equal(found.numbers.numpy(), distances.argsort(1)[:, :2])
    np.testing.assert_allclose(found.distances.numpy(), np.sort(distances, axis=1)[:, :2])


def test_copies_of_training_images_are_nearer_than_test_images():
    rng = torch.Generator().manual_seed(0)
    train, test = torch.rand(200, 4, generator=rng), torch.rand(200, 4, generator=rng)
    samples = torch.cat([train[:50] + 1e-6, torch.rand(150, 4, generator=rng)])
    share = share_nearer(nearest(samples, train), nearest(test, train))
    assert 0.25 <= share <= 0.29


def test_kernel_distance_is_the_mean_over_pairs_and_its_error_is_its_spread():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 3, generator=rng).double(), torch.randn(6, 3, generator=rng).double() + 1

    def kernel(a, b):
        return float((a @ b / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    terms = [kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i]) for i, j in pairs]
    assert squared_mmd(x, y).mean == pytest.approx(np.mean(terms))
    draws = [squared_mmd(*torch.randn(2, 100, 3, generator=rng).double().unbind()) for _ in range(200)]
    values = np.array([draw.mean for draw in draws])
    assert abs(values.mean()) < 4 * values.std() / 200**0.5  # unbiased: 0 for equal distributions
    shifted = [squared_mmd(a, b + 1) for a, b in torch.randn(200, 2, 100, 3, generator=rng).double()]
    spread = np.std([draw.mean for draw in shifted])
    assert np.mean([draw.standard_error for draw in shifted]) == pytest.approx(spread, rel=0.15)


def test_frechet_distance_of_gaussians_with_common_axes():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=rng).double()
    white = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)
    scale, other = torch.tensor([1.0, 2, 3]).double(), torch.tensor([2.0, 2, 5]).double()
    distance = frechet(white * scale, white * other + 1)
    assert distance == pytest.approx(3 + 1 + 0 + 4)
    assert frechet(white, white) == pytest.approx(0, abs=1e-10)
    # With other axes: tr of the root of a product, by the eigenvalues of the product itself.
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng).double()).Q
    a, b = white * scale, white * other @ turn
    roots = torch.linalg.eigvals(torch.cov(a.T) @ torch.cov(b.T)).real.sqrt().sum()
    assert frechet(a, b) == pytest.approx(float(14 + 33 - 2 * roots))


def test_error_of_a_distance_is_its_spread():
    rng = torch.Generator().manual_seed(0)

    def difference(a, b):
        return float(a.mean() - b.mean())

    found = with_error(difference, *torch.randn(2, 500, 1, generator=rng).double())
    assert found.standard_error == pytest.approx((2 / 500) ** 0.5, rel=0.6)


def test_classifier_learns_and_is_read_as_it_was_written(tmp_path):
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(192) % 3
    images = torch.randint(0, 64, (192, 1, 8, 8), generator=rng) + 90 * labels[:, None, None, None]
    images = images.to(torch.uint8)
    model = train_classifier(images, labels, 3, num_epochs=10)
    assert accuracy(model, images, labels) > 0.9
    assert features_of(model, images).square().mean() == pytest.approx(1, rel=1e-5)
    again = train_classifier(images, labels, 3, num_epochs=10)
    assert torch.equal(features_of(again, images), features_of(model, images))
    path = tmp_path / "c.safetensors"
    path.write_bytes(classifier_bytes(model, {"data": "three"}))
    found, facts = load_classifier(path, (1, 8, 8))
    assert facts == {"data": "three"}
    assert features_of(found, images).shape == (192, 64)
    assert torch.equal(features_of(found, images), features_of(model, images))
    with pytest.raises(ValueError, match="not a classifier of images of 3 channels"):
        load_classifier(path, (3, 8, 8))
    path.write_bytes(b"xx")
    with pytest.raises(ValueError, match="not a classifier, or damaged"):
        load_classifier(path, (1, 8, 8))


def test_packaged_classifier_knows_digits():
    from glow.editing.classifier import packaged_classifier

    _, facts = load_classifier(packaged_classifier("digits"), (1, 8, 8))
    assert facts["data"] == "digits"
    assert facts["test_accuracy"] > 0.97
    assert packaged_classifier("other") is None
    assert json.dumps(facts)
