"""Which images go into which split, in which order, under which names."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import read_split
from pictures import encoded, key_of, make_folder, picture

from glow.data.prepare.selection import Sample, name_samples, parse_held_out
from glow.data.prepare.writer import prepare
from glow.data.read.index import read_index


def test_samples_are_shuffled_by_the_seed(pets, tmp_path):
    def order(seed):
        run = replace(pets, seed=seed, output=str(tmp_path / f"seed{seed}"), validation="6")
        return [key for split in prepare(run).splits for key in read_split(run.output, split)]

    first, second = order(0), order(1)
    assert sorted(first) == sorted(second)
    assert first[:14] != sorted(first[:14])
    assert set(first[14:]) != set(second[14:])


def test_images_without_class_folders_have_no_labels(pets, tmp_path):
    source = make_folder(tmp_path / "flat", {f"{seed}.png": picture(seed) for seed in range(3)})
    dataset = prepare(replace(pets, source=[source]))
    assert dataset.classes is None
    assert {label for _, label in read_split(pets.output, "train").values()} == {None}
    assert (read_index(Path(pets.output) / "train-00000.idx").spans[:, 2:] == 0).all()


def test_two_zips_are_joined(pets, tmp_path, pet_pictures):
    halves = [dict(list(pet_pictures.items())[start::2]) for start in (0, 1)]
    sources = []
    for number, half in enumerate(halves):
        sources.append(str(tmp_path / f"{number}.zip"))
        with zipfile.ZipFile(sources[-1], "w") as archive:
            for name, array in half.items():
                archive.writestr(name, encoded(array))
    prepare(replace(pets, source=sources))
    stored = read_split(pets.output, "train")
    assert stored.keys() == {key_of(name) for name in pet_pictures}
    for name, array in pet_pictures.items():
        np.testing.assert_array_equal(stored[key_of(name)][0], array)


def test_held_out_images_can_have_a_source_of_their_own(pets, tmp_path):
    own = make_folder(tmp_path / "own", {f"dog/{seed}.png": picture(100 + seed) for seed in range(3)})
    dataset = prepare(replace(pets, test=own, validation="2"))
    assert {name: split.num_images for name, split in dataset.splits.items()} == {
        "train": 18,
        "validation": 2,
        "test": 3,
    }
    assert {key: label for key, (_, label) in read_split(pets.output, "test").items()} == {
        "dog-0": 1,
        "dog-1": 1,
        "dog-2": 1,
    }


class Names:
    def __init__(self, *names):
        self.names, self.labels = names, None


def test_keys_are_plain_and_unique():
    long = "x" * 100
    names = ["a.b/c d.png", "a-b/c-d.png", "a-b-c-d-2.png", f"{long}1.png", "日本.png", f"y{long}1.png", ".png"]
    keys = [sample.key for sample in name_samples([Names(*names), Names("a-b/c-d.png")], None)]
    assert keys[:3] == ["a-b-c-d", "a-b-c-d-2", "a-b-c-d-2-2"]
    assert keys[3:6] == ["x" * 79 + "1", "--", ("x" * 79 + "1")[:78] + "-2"]
    assert keys[-1] == "a-b-c-d-3"
    assert len(set(keys)) == len(keys)
    assert max(map(len, keys)) == 80
    assert name_samples([Names("a.png")], None) == [Sample(0, 0, "a", None)]


def test_held_out_amounts_are_told_apart():
    values = {"0.1": 0.1, ".5": 0.5, "5.e-1": 0.5, "500": 500, "a/b": "a/b", "digits": "digits", "1.zip": "1.zip"}
    assert {text: parse_held_out("test", text) for text in values} == values
    assert isinstance(parse_held_out("test", "1"), int)
    for text in ("0", "-3"):
        with pytest.raises(ValueError, match=f"test: {text} is not allowed; a count"):
            parse_held_out("test", text)
    for text in ("0.0", "1.0", "1.5", "-0.1"):
        with pytest.raises(ValueError, match=f"test: {text} is not allowed; a fraction"):
            parse_held_out("test", text)


def test_labels_of_some_sources_only_are_refused(pets, tmp_path):
    flat = make_folder(tmp_path / "flat", {"x.png": picture(1, 8, 8, grey=True)})
    with pytest.raises(ValueError, match="flat: has no class folders or labels, but digits has"):
        prepare(replace(pets, source=[flat], test="digits"))


def test_held_out_source_that_is_a_train_source_too_is_refused(pets):
    with pytest.raises(ValueError, match=r"validation: .* give a source that --source does not name too"):
        replace(pets, validation=pets.source[0])
