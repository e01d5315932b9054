"""What the prepare stage writes, and what it refuses or leaves out."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import read_split
from pictures import encoded, key_of, make_folder, picture

from glow.data.images.decoding import ImageError
from glow.data.prepare.writer import prepare
from glow.data.read.index import index_path, read_index
from glow.data.read.manifest import load_dataset
from pipelines.prepare import main


def test_every_image_is_stored_once_and_pixel_for_pixel(pets, pet_pictures):
    dataset = prepare(replace(pets, validation="5", test="0.2"))
    assert (dataset.name, dataset.shape, dataset.bit_depth, dataset.classes) == ("pets", (3, 4, 6), 8, ("cat", "dog"))
    assert {name: split.num_images for name, split in dataset.splits.items()} == {
        "train": 11,
        "validation": 5,
        "test": 4,
    }
    assert [shard.num_images for shard in dataset.splits["train"].shards] == [6, 5]
    stored = [read_split(pets.output, split) for split in dataset.splits]
    assert sum(map(len, stored)) == 20
    everything = stored[0] | stored[1] | stored[2]
    assert everything.keys() == {key_of(name) for name in pet_pictures}
    for name, array in pet_pictures.items():
        np.testing.assert_array_equal(everything[key_of(name)][0], array)
        assert everything[key_of(name)][1] == dataset.classes.index(name.split("/")[0])
    assert load_dataset(pets.output) == dataset


def test_index_points_at_the_members(pets):
    dataset = prepare(pets)
    for shard in dataset.splits["train"].shards:
        path = Path(pets.output) / shard.path
        index, data = read_index(index_path(path)), path.read_bytes()
        assert len(data) == shard.num_bytes
        with tarfile.open(path) as tar:
            assert [f"{key.decode()}.{ext}" for key in index.keys for ext in ("png", "cls")] == tar.getnames()
            for key, (offset, size, label_offset, label_size) in zip(index.keys, index.spans, strict=True):
                assert data[offset : offset + 8] == b"\x89PNG\r\n\x1a\n"
                assert data[offset : offset + size] == tar.extractfile(f"{key.decode()}.png").read()
                assert data[label_offset : label_offset + label_size] == tar.extractfile(f"{key.decode()}.cls").read()


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("cat/x.png", picture(1, 5, 6), {}, r"cat/x.png: is 5 x 6 .*the first image is 4 x 6; --size"),
        ("cat/x.png", picture(1, grey=True), {}, r"cat/x.png: is grey, the first image is in colour; choose --color"),
        ("cat/x.png", b"junk", {"size": 4}, r"cat/x.png: not an image"),
        ("cat/x.png", encoded(picture(1, 40, 40))[:-500], {"size": 4}, r"cat/x.png: cannot be read: .*truncated"),
        ("x.png", picture(1), {}, r"source: some images lie in class folders, but x.png does not"),
        ("cat/x.png", picture(1), {"test": "21"}, "test: 21 images are asked for, but of 21 images 21 are left"),
        ("cat/x.png", picture(1), {"test": "15", "validation": "6"}, "validation: 6 images .* of 21 images 6 are left"),
        ("cat/x.png", picture(1), {"validation": "0.01"}, "validation: 0.01 of 21 images is not one image"),
        ("cat/x.png", picture(1), {"validation": "nowhere"}, "nowhere: no such folder"),
        (
            "cat/x.png",
            picture(1),
            {"test": "digits"},
            "digits: its classes 0, 1, 2, .* do not occur in the train images",
        ),
    ],
)
def test_unusable_input_is_refused_and_leaves_nothing(pets, name, content, options, message):
    make_folder(Path(pets.source[0]), {name: content})
    with pytest.raises(ValueError, match=message):
        prepare(replace(pets, **options))
    directory = Path(pets.output).parent
    assert not directory.exists() or not any(directory.iterdir())


def test_skip_leaves_out_what_cannot_be_used_and_lists_it(pets, capsys):
    bad = {"cat/00.png": b"", "dog/x.png": picture(1, 5, 5), "dog/y.png": encoded(picture(1, 40, 40))[:-500]}
    make_folder(Path(pets.source[0]), bad)
    arguments = ["--source", pets.source[0], "--output", pets.output, "--shard_size", "6", "--on_error", "skip"]
    main([*arguments, "--validation", "0.2"])
    dataset = load_dataset(pets.output)
    assert {Path(entry["name"]).name: entry["reason"].split(":")[0] for entry in dataset.left_out} == {
        "00.png": "not an image in one of the formats PNG, JPEG, BMP, GIF, TIFF, PPM, WEBP",
        "x.png": "is 5 x 5 (height x width), the first image is 4 x 6; --size brings all images to one size, and "
        "--short_side keeps what they show",
        "y.png": "cannot be read",
    }
    assert sum(split.num_images for split in dataset.splits.values()) == 20
    assert sum(len(read_split(pets.output, split)) for split in dataset.splits) == 20
    output = capsys.readouterr().out
    assert "left out: 3 images" in output
    assert "dog/x.png: is 5 x 5" in output


def test_skip_drops_a_shard_whose_images_are_all_left_out(pets):
    make_folder(Path(pets.source[0]), {"cat/x.png": b""})
    dataset = prepare(replace(pets, shard_size=1, on_error="skip"))
    assert len(dataset.splits["train"].shards) == len(list(Path(pets.output).glob("*.tar"))) == 20


def test_nothing_left_is_an_error(pets, tmp_path):
    source = make_folder(tmp_path / "bad", {"a.png": b"", "b.png": b""})
    with pytest.raises(ValueError, match=r"no image of .*bad can be used; the first: .*a.png: not an image"):
        prepare(replace(pets, source=[source], on_error="skip"))
    own = replace(pets, test=source, source=[make_folder(tmp_path / "good", {"a.png": picture(1)})], on_error="skip")
    with pytest.raises(ValueError, match=r"test: every image was left out; the first is .*: not an image"):
        prepare(own)
    assert not Path(pets.output).exists()


def test_preparation_is_recorded(pets):
    prepare(replace(pets, size=4, validation="0.2"))
    recorded = json.loads((Path(pets.output) / "dataset.json").read_text())["preparation"]
    assert recorded == {
        "source": pets.source,
        "validation": "0.2",
        "test": None,
        "size": 4,
        "color": "keep",
        "shard_size": 6,
        "seed": 0,
        "on_error": "stop",
    }


def test_command_line_takes_several_sources_and_amounts(pets, tmp_path, capsys):
    second = make_folder(tmp_path / "second", {"cow/1.png": picture(50)})
    main(
        [
            "--source",
            pets.source[0],
            "--source",
            second,
            "--output",
            pets.output,
            "--validation",
            "0.1",
            "--test",
            "3",
        ]
    )
    dataset = load_dataset(pets.output)
    assert dataset.classes == ("cat", "cow", "dog")
    assert {name: split.num_images for name, split in dataset.splits.items()} == {
        "train": 16,
        "validation": 2,
        "test": 3,
    }
    assert capsys.readouterr().out.splitlines()[-1] == pets.output


def test_digits_keep_their_levels(pets):
    dataset = prepare(replace(pets, source=["digits"], shard_size=1000, test="300"))
    assert (dataset.shape, dataset.splits["train"].num_images) == ((1, 8, 8), 1497)
    from sklearn.datasets import load_digits

    digits = load_digits()
    for key, (pixels, label) in read_split(pets.output, "test").items():
        index = int(key.removeprefix("digits-"))
        np.testing.assert_array_equal(pixels // 16, np.minimum(digits.images[index], 15))
        assert dataset.classes[label] == str(digits.target[index])


def test_image_error_reaches_the_user_from_a_worker(pets):
    make_folder(Path(pets.source[0]), {"dog/zz.png": b"junk"})
    with pytest.raises(ImageError, match=r"dog/zz.png: not an image"):
        prepare(replace(pets, num_workers=2))
    assert list(Path(pets.output).parent.iterdir()) == []
