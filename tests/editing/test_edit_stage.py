"""The stage edit: what it writes on a tiny run, and mistakes that end in one line."""

import json

import pytest
import torch
from conftest import perturb, tiny_glow, write_images
from PIL import Image
from safetensors.torch import load_file
from saved_runs import save_run

import glow
from glow.data.read.reader import SplitReader
from pipelines import edit


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset):
    model = tiny_glow(torch.float32)
    perturb(model, 0.02, seed=3)
    return save_run(tmp_path_factory.mktemp("runs") / "tiny", dataset, model)


@pytest.fixture(scope="module")
def by_class(tmp_path_factory, dataset):
    model = tiny_glow(torch.float32, class_conditional=True, num_classes=2)
    folder = tmp_path_factory.mktemp("runs") / "classes"
    return save_run(folder, dataset, model, class_conditional=True, num_classes=2)


def edited(run, what, *options):
    output = edit.main(["--checkpoint", str(run), "--what", what, *options])
    path = output / f"{what}.json"
    return output, json.loads(path.read_text()) if path.is_file() else None


@pytest.mark.parametrize("kind", ["run", "by_class"])
def test_every_edit_of_images_writes_a_picture_and_figures(kind, request):
    run = request.getfixturevalue(kind)
    edited(run, "attributes")
    for what in ("reconstruct", "interpolate", "levels", "mix", "apply"):
        output, facts = edited(run, what, *(["--attribute", "class1"] if what == "apply" else []))
        assert facts["checkpoint"]["step"] == 7
        with Image.open(output / f"{what}.png") as picture:
            assert picture.width > 64


def test_reconstruction_names_images_and_their_bits(run, dataset):
    output, facts = edited(run, "reconstruct", "--images", "5", "0")
    assert output.name == "step-00000007-reconstruct-images-5-0"
    keys = SplitReader(dataset, "test").keys()
    assert [image["name"] for image in facts["images"]] == [keys[5], keys[0]]
    assert all(image["num_wrong_pixels"] == 0 for image in facts["images"])


def test_files_may_be_given_in_place_of_numbers(by_class, tmp_path):
    write_images(tmp_path, 2)
    files = sorted(str(path) for path in tmp_path.rglob("*.png"))
    _, facts = edited(by_class, "interpolate", "--images", *files, "--num_steps", "3")
    assert len(facts["bits_per_dim"]) == 4
    _, labelled = edited(by_class, "interpolate", "--images", *files, "--num_steps", "3", "--label", "1")
    assert facts["images"] == labelled["images"] == ["0000.png", "0001.png"]


def test_animation_shows_the_path(run):
    output, _ = edited(run, "interpolate", "--num_steps", "5")
    with Image.open(output / "interpolate.gif") as animation:
        assert animation.n_frames == 10  # 6 there, 4 back


def test_mixed_image_has_the_levels_of_both(run, dataset):
    output, _ = edited(run, "mix", "--images", "1", "2", "--levels", "2")
    reader = SplitReader(dataset, "test")
    samples = reader.read([1, 2])
    images = torch.stack([torch.from_numpy(reader.decode(samples[number]).copy()) for number in (1, 2)])
    model = glow.load(run)
    latents = model.encode(images)
    expected = model.decode([latents[0][:1], latents[1][1:]])
    assert torch.equal(model.read_images([output / "mixed.png"]), expected)
    assert not torch.equal(expected, images[:1])


def test_attributes_of_classes_and_of_two_folders(run, tmp_path):
    output, _ = edited(run, "attributes")
    table = json.loads((output / "directions.json").read_text())
    assert [row["name"] for row in table["attributes"]] == ["class0", "class1"]
    assert load_file(output / "directions.safetensors")["mean"].shape == (2, 192)
    for name, color in (("light", 220), ("dark", 30)):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("RGB", (8, 8), (color, color + number, color)).save(tmp_path / name / f"{number}.png")
    folders = ["--positive", str(tmp_path / "light"), "--negative", str(tmp_path / "dark")]
    output, _ = edited(run, "attributes", *folders, "--attribute", "light", "--output", str(tmp_path / "found"))
    (row,) = json.loads((output / "directions.json").read_text())["attributes"]
    assert (row["num_held_out"], row["accuracy_logistic"]) == (4, 1.0)


def test_repairs_say_how_the_chains_mixed(by_class, tmp_path):
    Image.new("L", (16, 16), 255).save(tmp_path / "mask.png")
    options = ["--images", "1", "--num_draws", "8"]
    for what, more in (("inpaint", []), ("inpaint", ["--mask", str(tmp_path / "mask.png")]), ("restore", [])):
        output, facts = edited(by_class, what, *options, *more)
        (found,) = facts["images"]
        assert set(found) == {"name", "acceptance", "effective_samples", "r_hat"}
        assert (output / f"{what}.png").is_file()
    with pytest.raises(ValueError, match="mask: middle is not allowed; give left, right, top, bottom, center or"):
        edited(by_class, "inpaint", *options, "--mask", "middle")


def test_neighbours_of_samples(run):
    output, facts = edited(run, "neighbours", "--num_images", "6")
    assert len(facts["pixels"]["nearest"]) == 6
    assert facts["latents"]["median_distance_of_samples"] > 0
    assert (output / "neighbours-pixels.png").is_file()


def test_distances_need_a_classifier_and_enough_images(run, tmp_path):
    with pytest.raises(ValueError, match="no classifier of tiny comes with glow; train one by edit --what classifier"):
        edited(run, "quality")
    path = edit.main(["--checkpoint", str(run), "--what", "classifier"])
    assert path == run / "edit" / "classifier.safetensors"
    with pytest.raises(ValueError, match="num_images: 23 images of test; distances need 40 or more"):
        edited(run, "quality", "--features", str(path))
    _, facts = edited(run, "quality", "--features", str(path), "--split", "train")
    assert facts["num_images"] == 97
    assert facts["frechet"]["mean"] > facts["frechet_of_halves"]["mean"] > 0
    assert facts["features"]["data"] == "tiny"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--what", "mix", "--levels", "3"], r"levels: 3 is not allowed; the model has levels 1 \(finest\) to 2"),
        (["--what", "mix", "--images", "1"], "images: 1 given; mix takes two"),
        (["--what", "levels", "--images", "23"], "images: 23, but .* has images 0 to 22"),
        (["--what", "levels", "--images", "1", "a.png"], "images: give files, or numbers of images"),
        (["--what", "levels", "--images", "a.png"], "a.png"),
        (["--what", "levels", "--label", "1"], "images of a data set have labels; leave it out"),
        (["--what", "levels", "--path", "linear"], "what levels does not use it, but interpolate"),
        (["--what", "apply"], "attribute is not set; name the attribute"),
        (["--what", "attributes", "--positive", "a"], "negative is not set; give positive and negative"),
        (["--what", "attributes", "--split", "train"], "leave it out: attributes uses train, and measures test"),
        (["--what", "interpolate", "--num_steps", "0"], "num_steps: 0 is not allowed; give 1 or more"),
        (["--what", "apply", "--attribute", "x", "--strengths", "[.nan]"], "strengths: .* give one or more finite"),
        (["--what", "levels", "--temperature", "-1"], "temperature: -1.0 is not allowed"),
    ],
)
def test_mistakes_end_in_one_line(run, options, message):
    with pytest.raises((ValueError, OSError), match=message):
        edit.main(["--checkpoint", str(run), *options])


def test_attribute_of_another_name_is_refused_with_those_there_are(run):
    edited(run, "attributes")
    with pytest.raises(ValueError, match="attribute: 'class7' is none of the saved ones, which are class0, class1"):
        edited(run, "apply", "--attribute", "class7")
