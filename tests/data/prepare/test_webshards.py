"""Shards that somebody else wrote, as sources."""

import io
from dataclasses import replace

import numpy as np
import pytest
from conftest import read_split
from foreign import photo, write_as_img2dataset, write_tar, write_with_shard_writer
from PIL import Image

from glow.config import PrepareRun
from glow.data.images.decoding import ImageForm
from glow.data.prepare.sources import open_source
from glow.data.prepare.writer import prepare


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_with_shard_writer(tmp_path_factory.mktemp("shards") / "written")


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    return write_as_img2dataset(tmp_path_factory.mktemp("shards") / "downloaded")


def prepared(tmp_path, source, **options):
    run = PrepareRun(source=[str(source)], output=str(tmp_path / "data"), num_workers=0, **options)
    return prepare(run), read_split(tmp_path / "data", "train")


@pytest.mark.parametrize(
    "spec", ["{}", "{}/shard-{{000000..000002}}.tar", "{}/*.tar", "{}/shard-000000.tar::{}/shard-00000[12].tar"]
)
def test_all_ways_to_name_shards_give_the_same_images_and_classes(written, tmp_path, spec):
    dataset, images = prepared(tmp_path, spec.format(written, written))
    assert dataset.classes == ("0", "1", "2")
    assert sorted(images) == [f"{number:06d}" for number in range(24)]
    for key, (pixels, label) in images.items():
        assert label == int(key) % 3
        np.testing.assert_array_equal(pixels, pixels_of(photo(int(key), 8, 8, "PNG")))


def pixels_of(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_several_processes_write_the_same_data_set(written, tmp_path):
    options = {"validation": "4", "test": "0.2", "shard_size": 5}
    one, _ = prepared(tmp_path / "one", written, **options)
    two = prepare(PrepareRun([str(written)], str(tmp_path / "two/data"), num_workers=2, **options))
    assert replace(one, preparation={}) == replace(two, preparation={})


def test_labels_come_from_a_key_of_the_json(downloaded, tmp_path):
    with pytest.warns(UserWarning, match=r"beside 24 images, these files are not read: 24 \.txt$"):
        dataset, images = prepared(tmp_path, downloaded, label="json:class.name", size=16)
    assert dataset.classes == ("cat", "dog")
    assert {label for _, label in images.values()} == {0, 1}
    assert all(label == int(key[-4:]) % 2 for key, (_, label) in images.items())


def test_labels_that_are_not_found_are_a_warning_that_says_how(downloaded, tmp_path):
    with pytest.warns(UserWarning, match=r"24 \.json, 24 \.txt; --label json:KEY takes .* have caption, key, class"):
        dataset, _ = prepared(tmp_path, downloaded, size=16)
    assert dataset.classes is None


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("json:nothing", r"00000\.tar: 000000000\.json: its \.json has no key 'nothing'; it has caption, class, key"),
        ("json:class", r"its label is {'name': 'cat'}; a label is a whole number or a short text"),
        ("json:", r"label: 'json:' is not allowed; choose cls, json:KEY, folder or none"),
        ("cls", r"24 of 24 images have no \.cls for a label, such as '000000000'; --label none"),
        ("folder", r"24 of 24 images have no folder for a label"),
    ],
)
def test_labels_that_cannot_be_had_are_one_line(downloaded, tmp_path, label, message):
    with pytest.raises(ValueError, match=message) as caught:
        prepared(tmp_path, downloaded, label=label, size=16)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("label", ["-1", "nan", "1e20", "100000000000000000000", "1.5", "", "x" * 201, "a\nb", "inf"])
def test_impossible_class_numbers_name_the_file(tmp_path, label):
    path = write_tar(tmp_path / "x.tar", [("a.png", photo(0, 8, 8, "PNG")), ("a.cls", label.encode())])
    with pytest.raises(ValueError, match=r"x\.tar: a\.cls: its label is "):
        open_source(path)


def test_one_tar_with_classes_beside_its_images_keeps_them(tmp_path):
    files = []
    for number in range(4):
        files += [(f"{number}.png", photo(number, 8, 8, "PNG")), (f"{number}.cls", str(2 * number).encode())]
    dataset, images = prepared(tmp_path, write_tar(tmp_path / "one.tar", files))
    assert dataset.classes == ("0", "2", "4", "6")
    assert {key: label for key, (_, label) in images.items()} == {"0": 0, "1": 1, "2": 2, "3": 3}


@pytest.mark.filterwarnings("ignore:.*these files are not read")
def test_files_of_a_sample_that_are_no_neighbours_are_counted(tmp_path):
    image = photo(0, 8, 8, "PNG")
    path = write_tar(tmp_path / "x.tar", [("d.png", image), ("e.png", image), ("d.json", b"{}")])
    with pytest.warns(UserWarning, match=r"1 samples have no image, such as 'd'; the files of a sample must"):
        source = open_source(path, label="none")
    assert source.names == ["d.png", "e.png"]


def test_extensions_with_dots_and_capitals_are_images(tmp_path):
    image = photo(0, 8, 8, "PNG")
    path = write_tar(tmp_path / "x.tar", [("b.left.png", image), ("c.PNG", image), ("noextension", b"")])
    with pytest.warns(UserWarning, match="beside 2 images, these files are not read: 1 without an extension"):
        source = open_source(path, label="none")
    assert [sample.key for _, sample in source.samples] == ["b", "c"]
    assert ImageForm.of(PrepareRun(["x"], "y"), source.load(1)).shape == (3, 8, 8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.png", b"x"), ("a.png", b"y")], r"x\.tar: member 'a\.png' is there twice"),
        ([("../a.png", b"x")], r"member '\.\./a\.png' points outside of the archive"),
        ([("a.txt", b"x")], r"holds no images"),
    ],
)
def test_hostile_shards_are_one_line(tmp_path, files, message):
    path = write_tar(tmp_path / "x.tar", files)
    with pytest.raises(ValueError, match=message) as caught:
        open_source(path, label="none")
    assert "\n" not in str(caught.value)


def test_shard_that_is_cut_is_named(written, tmp_path):
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    cut = tmp_path / "shard-000001.tar"
    cut.write_bytes(cut.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"shard-000001\.tar: .*damaged"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("spec", ["{}/nothing-*.tar", "{}/{{a,a}}.tar"])
def test_patterns_that_name_nothing_are_one_line(tmp_path, spec):
    with pytest.raises(ValueError, match=r"matches no file|twice"):
        open_source(spec.format(tmp_path))


def test_missing_shard_is_named(written):
    with pytest.raises((ValueError, OSError), match=r"shard-000003\.tar"):
        open_source(f"{written}/shard-{{000000..000003}}.tar")


def test_label_is_refused_where_it_has_no_meaning(tmp_path):
    (tmp_path / "a.png").write_bytes(photo(0, 8, 8, "PNG"))
    with pytest.raises(ValueError, match=r"label: 'cls', but .* is not made of shards"):
        open_source(str(tmp_path), label="cls")


def test_options_of_earlier_data_sets_are_still_theirs(pets):
    dataset = prepare(pets)
    assert "label" not in dataset.preparation
    assert prepare(pets) == dataset


@pytest.mark.parametrize("spec", ["pipe:touch {}", "x.tar::pipe:touch {}"])
def test_commands_are_never_run(tmp_path, spec):
    with pytest.raises(ValueError, match="commands are no shards"):
        open_source(spec.format(tmp_path / "touched"))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("spec", ["x-{0..9999999999}.tar", "{000..999}/{0..9999}.tar"])
def test_patterns_of_too_many_shards_take_no_memory(spec):
    with pytest.raises(ValueError, match=r"names more than 1,000,000 shards"):
        open_source(spec)


@pytest.mark.parametrize("spec", ["x-{000..", "x-{}.tar", "x-}{.tar"])
def test_odd_braces_are_one_line(spec):
    with pytest.raises((ValueError, OSError)) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)
