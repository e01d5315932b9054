"""What a trained Glow gives in Python is what the stages write, for any number of images."""

import csv
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_glow
from PIL import Image

import glow
from glow.data.read.loader import dequantization_noise, eval_batches
from glow.data.read.reader import SplitReader
from glow.evaluation.likelihood import Bound, score_split
from pipelines import evaluate, prepare, sample

ARCHIVE = Path(__file__).parent.parent / "compatibility" / "0.1.0.tar.gz"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set of 1x8x8 images and runs on it: "affine", and "mixture", which is class-conditional."""
    root = tmp_path_factory.mktemp("runs")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(root, filter="data")
    return root


@pytest.fixture(scope="module")
def batch(root):
    return next(eval_batches(SplitReader(root / "data", "test"), 8, seed=0))


@pytest.fixture
def small():
    """A model of 3x8x8 images of 8 bits, and 70 images: more than a group of 64."""
    rng = np.random.default_rng(0)
    return glow.TrainedGlow(tiny_glow(torch.float32)), rng.integers(0, 256, (70, 3, 8, 8), dtype=np.uint8)


def evaluated(root, name, *extra):
    report = evaluate.main(
        ["--checkpoint", str(root / name), "--data", str(root / "data"), "--baselines", "false", *extra]
    )
    return list(csv.DictReader((report / "per_image.csv").read_text().splitlines()))


def test_bits_per_dim_with_keys_are_those_of_the_evaluate_stage(root, batch, tmp_path):
    rows = evaluated(root, "affine", "--seed", "5", "--weights", "raw", "--output", str(tmp_path))
    model = glow.load(root / "affine", weights="raw")
    bits = model.bits_per_dim(batch.images, seed=5, keys=batch.keys)
    assert [row["key"] for row in rows] == batch.keys
    assert bits.tolist() == [float(row["bits_per_dim"]) for row in rows]
    log_prob = model.log_prob(batch.images, seed=5, keys=batch.keys)
    torch.testing.assert_close(glow.bits_per_dim(log_prob, 64), bits, rtol=1e-14, atol=0)


def test_labels_of_a_class_conditional_model_are_given_or_unknown(root, batch):
    rows = evaluated(root, "mixture")
    model = glow.load(root / "mixture")
    given = model.bits_per_dim(batch.images, labels=batch.labels, keys=batch.keys)
    assert given.tolist() == [float(row["bits_per_dim"]) for row in rows]
    unknown = model.bits_per_dim(batch.images.numpy(), keys=batch.keys)
    expected = [float(row["bits_per_dim_without_label"]) for row in rows]
    assert unknown.tolist() == pytest.approx(expected, rel=1e-12)


def test_files_are_read_as_the_prepare_stage_reads_them(tmp_path, small):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    (tmp_path / "photos").mkdir()
    Image.fromarray(rng.integers(0, 256, (30, 20, 3), np.uint8)).save(tmp_path / "photos/a.jpg", exif=exif)
    Image.fromarray(rng.integers(0, 256, (9, 16, 4), np.uint8)).save(tmp_path / "photos/b.png")
    Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / "photos/c.png")
    paths = sorted((tmp_path / "photos").iterdir())
    for name, shape in (("rgb", (3, 8, 8)), ("grey", (1, 8, 12))):
        size = f"[{shape[1]}, {shape[2]}]"
        options = ["--size", size, "--color", name, "--output", str(tmp_path / name)]
        prepare.main(["--source", str(tmp_path / "photos"), *options])
        stored = next(eval_batches(SplitReader(tmp_path / name, "train"), 3, seed=0))
        model = glow.TrainedGlow(glow.Glow(glow.ModelConfig(shape, 1, 1, 4)))
        images = model.read_images(paths)
        assert images.shape == (3, *shape)
        expected = dict(zip(stored.keys, stored.images, strict=True))
        assert all(torch.equal(image, expected[path.stem]) for image, path in zip(images, paths, strict=True))
    (tmp_path / "d.png").write_bytes(b"no image")
    model, _ = small
    with pytest.raises(ValueError, match=r"d\.png: not an image in one of the formats"):
        model.read_images([tmp_path / "d.png"])
    with pytest.raises(ValueError, match=r"paths: 'd\.png' is one path; give a list"):
        model.read_images("d.png")


def test_class_is_given_by_its_name(root):
    model = glow.load(root / "mixture")
    assert model.classes is None  # made before names were kept
    with pytest.raises(ValueError, match="holds no names of classes; give a number"):
        model.sample(2, label="b")
    named = glow.TrainedGlow(model.glow, [f"class {number}" for number in range(model.glow.num_classes)])
    assert torch.equal(named.sample(2, label="class 1"), model.sample(2, label=1))
    with pytest.raises(ValueError, match="label: 'b' is none of the classes, which are class 0, class 1"):
        named.sample(2, label="b")


def test_bits_per_dim_of_several_groups_are_those_of_a_split(dataset):
    network, reader = tiny_glow(torch.float32), SplitReader(dataset, "train")
    batch = next(eval_batches(reader, len(reader), seed=0))
    expected = [score.bits_per_dim for score in score_split(network, reader, 7, Bound("elbo", 1, 0))]
    assert len(expected) == 97
    assert glow.TrainedGlow(network).bits_per_dim(batch.images, keys=batch.keys).tolist() == expected


def test_results_do_not_depend_on_how_many_images_there_are(small):
    model, images = small
    assert torch.equal(model.bits_per_dim(images)[:5], model.bits_per_dim(images[:5]))
    assert torch.equal(model.sample(70)[:5], model.sample(5))
    for seed in (None, 3):
        whole, part = model.encode(images, seed=seed), model.encode(images[:5], seed=seed)
        assert all(torch.equal(a[:5], b) for a, b in zip(whole, part, strict=True))
        assert torch.equal(model.decode(whole)[:5], model.decode(part))
    nothing = model.decode(model.encode(images[:0]))
    assert nothing.shape == model.sample(0).shape == (0, 3, 8, 8)
    assert model.bits_per_dim(images[:0]).shape == (0,)


def test_noise_depends_on_place_seed_and_key(small):
    model, images = small
    same = np.repeat(images[:1], 2, axis=0)
    first, second = model.bits_per_dim(same).tolist()
    assert first != second
    assert model.bits_per_dim(same, seed=1)[0] != first
    assert model.bits_per_dim(same, keys=["0", "0"]).tolist() == pytest.approx([first, first], rel=1e-6)


@pytest.mark.parametrize("name", ["affine", "mixture"])
def test_samples_are_those_of_the_sample_stage(root, name, tmp_path):
    arguments = ["--temperatures", "[0.7]", "--num_images", "5", "--first_index", "62", "--seed", "3"]
    output = sample.main(
        ["--checkpoint", str(root / name), "--output", str(tmp_path), *arguments, "--save_images", "true"]
    )
    images = glow.load(root / name).sample(5, temperature=0.7, seed=3, first_index=62)
    for index, image in zip(range(62, 67), images, strict=True):
        assert np.array_equal(np.asarray(Image.open(output / f"images-t0.70/{index:08d}.png")), image[0].numpy())


def test_samples_have_the_label_and_the_temperature_of_each_level(root, small):
    model = glow.load(root / "mixture")
    assert torch.equal(model.sample(6)[1::3], model.sample(6, label=1)[1::3])
    assert not torch.equal(model.sample(6), model.sample(6, label=1))
    model, _ = small
    assert torch.equal(model.sample(2, temperature=[0.7, 0.7]), model.sample(2, temperature=0.7))
    assert not torch.equal(model.sample(2, temperature=[0, 0.7]), model.sample(2, temperature=0.7))


def test_decode_gives_encoded_images_back(root, batch, small):
    model, images = small
    latents = model.encode(images)
    assert [tuple(z.shape) for z in latents] == [(70, *shape) for shape in model.glow.latent_shapes]
    assert torch.equal(model.decode(latents), torch.from_numpy(images))
    # 4 bits: the levels of the images.
    model = glow.load(root / "mixture")
    decoded = model.decode(model.encode(batch.images, labels=batch.labels), labels=batch.labels)
    assert torch.equal(decoded >> 4, batch.images >> 4)
    again = model.decode(model.encode(decoded, labels=batch.labels), labels=batch.labels)
    assert torch.equal(again, decoded)


def test_latents_are_those_of_the_model(small):
    model, images = small
    images = torch.from_numpy(images[:9])
    drawn = torch.from_numpy(np.stack([dequantization_noise(str(i), (3, 8, 8), 4) for i in range(9)]))
    for seed, noise in ((None, torch.full((9, 3, 8, 8), 0.5)), (4, drawn)):
        with torch.no_grad():
            expected, _ = model.glow.encode(model.glow.dequantize(images, noise)[0])
        for latent, other in zip(model.encode(images, seed=seed), expected, strict=True):
            torch.testing.assert_close(latent, other)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((2, 3, 8, 8)),
            r"images: float64 \[2, 3, 8, 8\], .* uint8 \(0 to 255\) \[N, C, H, W\]",
        ),
        (np.zeros((3, 8, 8), np.uint8), r"images: uint8 \[3, 8, 8\], .* \[C, H, W\] = \[3, 8, 8\]"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), r"images: uint8 \[2, 8, 8, 3\]"),
        ([1, 2], "images: list"),
    ],
)
def test_images_of_another_kind_are_refused(small, images, message):
    model, _ = small
    for method in (model.bits_per_dim, model.log_prob, model.encode):
        with pytest.raises(ValueError, match=message):
            method(images)


def test_arguments_that_do_not_fit_are_refused(root, batch, small):
    model, images = small
    for arguments, message in (
        ({"keys": ["a"]}, "keys: 1 for 70 images"),
        ({"labels": [0] * 70}, "this model is not class_conditional"),
    ):
        with pytest.raises(ValueError, match=message):
            model.bits_per_dim(images, **arguments)
    latents = model.encode(images[:2])
    for wrong in (latents[:1], latents[::-1], [latents[0][:1], latents[1]]):
        with pytest.raises(ValueError, match="latents: shapes"):
            model.decode(wrong)
    for wrong in ({"count": -1}, {"first_index": -1}, {"label": -1}, {"temperature": -0.5}, {"temperature": [1, -1]}):
        with pytest.raises(ValueError, match=rf"{next(iter(wrong))}: -.* is not allowed; give 0 or more"):
            model.sample(**{"count": 1} | wrong)
    with pytest.raises(ValueError, match="the model has no classes"):
        model.sample(1, label=0)
    with pytest.raises(ValueError, match="3 numbers for 2 levels"):
        model.sample(1, temperature=[1, 1, 1])
    conditional = glow.load(root / "mixture")
    with pytest.raises(ValueError, match="needs labels"):
        conditional.encode(batch.images)
    for labels, message in (([3] * 8, "3 to 3; allowed are 0 to 2"), ([0] * 3, r"labels: int64 \[3\]; give 8")):
        with pytest.raises(ValueError, match=message):
            conditional.log_prob(batch.images, labels=labels)


def test_the_checkpoint_is_chosen(root, batch, tmp_path):
    ema = glow.load(root / "affine").bits_per_dim(batch.images)
    assert not torch.equal(glow.load(root / "affine", weights="raw").bits_per_dim(batch.images), ema)
    run = shutil.copytree(root / "affine", tmp_path / "run")
    best = next((run / "checkpoints").iterdir())
    latest = shutil.copytree(best, best.with_name("step-00000099"))
    state = json.loads((latest / "state.json").read_text())
    (latest / "state.json").write_text(json.dumps(state | {"step": 99, "validation_bits_per_dim": 99}))
    (latest / "ema.safetensors").unlink()
    assert torch.equal(glow.load(run, which="best").bits_per_dim(batch.images), ema)
    with pytest.warns(UserWarning, match=r"step-00000099/ema\.safetensors: no such file; using .*step-00000004"):
        assert torch.equal(glow.load(run).bits_per_dim(batch.images), ema)
    with pytest.raises(ValueError, match=r"step-00000099/ema\.safetensors: no such file"):
        glow.load(latest)
    assert str(glow.load(root / "mixture", device="cpu")) == "TrainedGlow(images 1 x 8 x 8, 4 bits, 3 classes)"
    with pytest.raises(ValueError, match="weights: 'EMA'; allowed are 'ema' and 'raw'"):
        glow.load(root / "affine", weights="EMA")
    with pytest.raises(ValueError, match="no such checkpoint"):
        glow.load(root / "missing")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device: cuda, but torch finds no GPU here"):
            glow.load(root / "affine", device="cuda")
