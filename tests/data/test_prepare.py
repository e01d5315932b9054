import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import read_split
from PIL import Image

from glow.config import PrepareRun
from glow.data.prepare.decoding import ImageError
from glow.data.prepare.selection import Sample, name_samples, parse_held_out
from glow.data.prepare.shards import ShardWriter
from glow.data.prepare.writer import prepare
from glow.data.read.manifest import index_path, load_dataset, read_index
from glow.locking import locked
from pipelines.prepare import main


def picture(seed, height=4, width=6, grey=False):
    shape = (height, width) if grey else (height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def make_folder(path, pictures):
    for name, content in pictures.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else png(content))
    return str(path)


@pytest.fixture
def pictures():
    return {f"{'cat' if seed % 3 else 'dog'}/{seed:02d}.png": picture(seed) for seed in range(20)}


@pytest.fixture
def config(tmp_path, pictures):
    source = make_folder(tmp_path / "source", pictures)
    return PrepareRun(source=[source], output=str(tmp_path / "data" / "pets"), shard_size=6, num_workers=0)


def key_of(name):
    return name.removesuffix(".png").replace("/", "-")


def contents(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


# --- what is written


def test_every_image_is_stored_once_and_pixel_for_pixel(config, pictures):
    dataset = prepare(replace(config, validation="5", test="0.2"))
    assert (dataset.name, dataset.shape, dataset.bit_depth, dataset.classes) == ("pets", (3, 4, 6), 8, ("cat", "dog"))
    assert {name: split.num_images for name, split in dataset.splits.items()} == {
        "train": 11,
        "validation": 5,
        "test": 4,
    }
    assert [shard.num_images for shard in dataset.splits["train"].shards] == [6, 5]
    stored = [read_split(config.output, split) for split in dataset.splits]
    assert sum(map(len, stored)) == 20
    everything = stored[0] | stored[1] | stored[2]
    assert everything.keys() == {key_of(name) for name in pictures}
    for name, array in pictures.items():
        np.testing.assert_array_equal(everything[key_of(name)][0], array)
        assert everything[key_of(name)][1] == dataset.classes.index(name.split("/")[0])
    assert load_dataset(config.output) == dataset


def test_index_points_at_the_members(config):
    dataset = prepare(config)
    for shard in dataset.splits["train"].shards:
        path = Path(config.output) / shard.path
        index, data = read_index(index_path(path)), path.read_bytes()
        assert len(data) == shard.num_bytes
        with tarfile.open(path) as tar:
            assert [f"{key.decode()}.{ext}" for key in index.keys for ext in ("png", "cls")] == tar.getnames()
            for key, (offset, size, label_offset, label_size) in zip(index.keys, index.spans, strict=True):
                assert data[offset : offset + 8] == b"\x89PNG\r\n\x1a\n"
                assert data[offset : offset + size] == tar.extractfile(f"{key.decode()}.png").read()
                assert data[label_offset : label_offset + label_size] == tar.extractfile(f"{key.decode()}.cls").read()


def test_samples_are_shuffled_by_the_seed(config, tmp_path):
    def order(seed):
        run = replace(config, seed=seed, output=str(tmp_path / f"seed{seed}"), validation="6")
        return [key for split in prepare(run).splits for key in read_split(run.output, split)]

    first, second = order(0), order(1)
    assert sorted(first) == sorted(second)
    assert first[:14] != sorted(first[:14])
    assert set(first[14:]) != set(second[14:])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_same_options_give_the_same_bytes(config, tmp_path, num_workers):
    prepare(replace(config, validation="0.3"))
    again = replace(config, validation="0.3", output=str(tmp_path / "other" / "pets"), num_workers=num_workers)
    prepare(again)
    assert contents(again.output) == contents(config.output)


def test_images_without_class_folders_have_no_labels(config, tmp_path):
    source = make_folder(tmp_path / "flat", {f"{seed}.png": picture(seed) for seed in range(3)})
    dataset = prepare(replace(config, source=[source]))
    assert dataset.classes is None
    assert {label for _, label in read_split(config.output, "train").values()} == {None}
    assert (read_index(Path(config.output) / "train-00000.idx").spans[:, 2:] == 0).all()


def test_two_zips_are_joined(config, tmp_path, pictures):
    halves = [dict(list(pictures.items())[start::2]) for start in (0, 1)]
    sources = []
    for number, half in enumerate(halves):
        sources.append(str(tmp_path / f"{number}.zip"))
        with zipfile.ZipFile(sources[-1], "w") as archive:
            for name, array in half.items():
                archive.writestr(name, png(array))
    prepare(replace(config, source=sources))
    stored = read_split(config.output, "train")
    assert stored.keys() == {key_of(name) for name in pictures}
    for name, array in pictures.items():
        np.testing.assert_array_equal(stored[key_of(name)][0], array)


def test_held_out_images_can_have_a_source_of_their_own(config, tmp_path):
    own = make_folder(tmp_path / "own", {f"dog/{seed}.png": picture(100 + seed) for seed in range(3)})
    dataset = prepare(replace(config, test=own, validation="2"))
    assert {name: split.num_images for name, split in dataset.splits.items()} == {
        "train": 18,
        "validation": 2,
        "test": 3,
    }
    assert {key: label for key, (_, label) in read_split(config.output, "test").items()} == {
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


# --- size and colour


def test_size_resizes_and_crops_the_centre(config, tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200  # the centre
    square = np.full((16, 16, 3), 100, np.uint8)
    source = make_folder(tmp_path / "sizes", {"wide.png": wide, "square.png": square, "same.png": picture(1, 4, 4)})
    dataset = prepare(replace(config, source=[source], size=4))
    assert dataset.shape == (3, 4, 4)
    stored = read_split(config.output, "train")
    np.testing.assert_allclose(stored["wide"][0][:, 1:3], 200, atol=3)  # the filter overshoots at an edge
    np.testing.assert_array_equal(stored["square"][0], np.full((4, 4, 3), 100))
    np.testing.assert_array_equal(stored["same"][0], picture(1, 4, 4))


def test_resizing_is_antialiased(config, tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 254
    prepare(replace(config, source=[make_folder(tmp_path / "stripes", {"a.png": stripes})], size=(8, 4)))
    pixels = read_split(config.output, "train")["a"][0]
    assert pixels.shape == (8, 4, 3)
    assert np.abs(pixels.astype(int) - 127).max() <= 10


def test_colour_is_kept_or_converted(config, tmp_path):
    grey = make_folder(tmp_path / "grey", {"a.png": picture(1, grey=True), "b.png": picture(2, grey=True)})
    for color, shape in [("keep", (1, 4, 6)), ("grey", (1, 4, 6)), ("rgb", (3, 4, 6))]:
        run = replace(config, source=[grey], color=color, output=str(tmp_path / "out" / color))
        assert prepare(run).shape == shape
        expected = picture(1, grey=True)
        stored = read_split(run.output, "train")["a"][0]
        np.testing.assert_array_equal(stored, np.stack([expected] * 3, axis=-1) if color == "rgb" else expected)
    assert prepare(replace(config, color="grey")).shape == (1, 4, 6)


def test_palette_and_profile_leave_nothing_but_pixels(config, tmp_path):
    image = Image.fromarray(picture(1)).quantize(8)
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=b"\x00\x80", icc_profile=b"profile")
    prepare(replace(config, source=[make_folder(tmp_path / "palette", {"a.png": stream.getvalue()})]))
    alpha = np.array([0, 128] + [255] * 254)[np.asarray(image)][:, :, None] / 255
    expected = np.asarray(image.convert("RGB")) * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(read_split(config.output, "train")["a"][0], expected, atol=1)
    shard = (Path(config.output) / "train-00000.tar").read_bytes()
    assert b"tRNS" not in shard
    assert b"iCCP" not in shard


# --- what is refused


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("cat/x.png", picture(1, 5, 6), {}, r"cat/x.png: is 5 x 6 .*the first image is 4 x 6; --size"),
        ("cat/x.png", picture(1, grey=True), {}, r"cat/x.png: is grey, the first image is in colour; choose --color"),
        ("cat/x.png", b"junk", {"size": 4}, r"cat/x.png: not an image"),
        ("cat/x.png", png(picture(1, 40, 40))[:-500], {"size": 4}, r"cat/x.png: cannot be read: .*truncated"),
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
def test_unusable_input_is_refused_and_leaves_nothing(config, name, content, options, message):
    make_folder(Path(config.source[0]), {name: content})
    with pytest.raises(ValueError, match=message):
        prepare(replace(config, **options))
    directory = Path(config.output).parent
    assert not directory.exists() or not any(directory.iterdir())


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


def test_skip_leaves_out_what_cannot_be_used_and_lists_it(config, capsys):
    bad = {"cat/00.png": b"", "dog/x.png": picture(1, 5, 5), "dog/y.png": png(picture(1, 40, 40))[:-500]}
    make_folder(Path(config.source[0]), bad)
    arguments = ["--source", config.source[0], "--output", config.output, "--shard_size", "6", "--on_error", "skip"]
    main([*arguments, "--validation", "0.2"])
    dataset = load_dataset(config.output)
    assert {Path(entry["name"]).name: entry["reason"].split(":")[0] for entry in dataset.left_out} == {
        "00.png": "not an image in one of the formats PNG, JPEG, BMP, GIF, TIFF, PPM, WEBP",
        "x.png": "is 5 x 5 (height x width), the first image is 4 x 6; --size brings all images to one size",
        "y.png": "cannot be read",
    }
    assert sum(split.num_images for split in dataset.splits.values()) == 20
    assert sum(len(read_split(config.output, split)) for split in dataset.splits) == 20
    output = capsys.readouterr().out
    assert "left out: 3 images" in output
    assert "dog/x.png: is 5 x 5" in output


def test_skip_drops_a_shard_whose_images_are_all_left_out(config):
    make_folder(Path(config.source[0]), {"cat/x.png": b""})
    dataset = prepare(replace(config, shard_size=1, on_error="skip"))
    assert len(dataset.splits["train"].shards) == len(list(Path(config.output).glob("*.tar"))) == 20


def test_nothing_left_is_an_error(config, tmp_path):
    source = make_folder(tmp_path / "bad", {"a.png": b"", "b.png": b""})
    with pytest.raises(ValueError, match=r"no image of .*bad can be used; the first: .*a.png: not an image"):
        prepare(replace(config, source=[source], on_error="skip"))
    own = replace(config, test=source, source=[make_folder(tmp_path / "good", {"a.png": picture(1)})], on_error="skip")
    with pytest.raises(ValueError, match=r"test: every image was left out; the first is .*: not an image"):
        prepare(own)
    assert not Path(config.output).exists()


# --- interruption and repetition


def test_interrupted_run_leaves_nothing_and_the_next_one_finishes(config, monkeypatch):
    write = ShardWriter.write

    def interrupt(self, split, number):
        if number == 2:
            raise KeyboardInterrupt
        return write(self, split, number)

    monkeypatch.setattr(ShardWriter, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(config)
    assert list(Path(config.output).parent.iterdir()) == []
    monkeypatch.undo()
    assert prepare(config).splits["train"].num_images == 20


def test_leftovers_of_a_killed_run_do_not_get_into_the_next(config):
    partial = Path(config.output).parent / ".pets.partial"
    partial.mkdir(parents=True)
    (partial / "train-00009.tar").write_bytes(b"half")
    prepare(config)
    assert not partial.exists()
    assert {path.suffix for path in Path(config.output).iterdir()} == {".tar", ".idx", ".json"}
    assert not (Path(config.output) / "train-00009.tar").exists()


def test_same_options_again_are_no_work(config, capsys):
    arguments = ["--source", config.source[0], "--output", config.output, "--num_workers", "0"]
    main(arguments)
    first = capsys.readouterr().out
    assert first.splitlines() == ["pets: 3 x 4 x 6, 2 classes; train 20 in 1 shard", config.output]
    times = {path: path.stat().st_mtime_ns for path in Path(config.output).iterdir()}
    main([*arguments[:-1], "1"])  # the number of workers is no difference
    assert (
        capsys.readouterr().out == "already there, made with the same options (remove it to prepare it again)\n" + first
    )
    assert {path: path.stat().st_mtime_ns for path in Path(config.output).iterdir()} == times


def test_what_is_in_the_place_is_not_touched(config):
    prepare(config)
    before = contents(config.output)
    with pytest.raises(ValueError, match=r"pets: holds a data set made with other options; choose another --output"):
        prepare(replace(config, seed=1))
    assert contents(config.output) == before
    (Path(config.output) / "train-00001.tar").unlink()
    with pytest.raises(ValueError, match=r"pets: damaged: train-00001.tar"):
        prepare(config)
    (Path(config.output) / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"pets: exists and is not a data set; choose another --output or remove it"):
        prepare(config)


def test_empty_directory_in_the_place_is_taken(config):
    Path(config.output).mkdir(parents=True)
    assert prepare(config).splits["train"].num_images == 20


def test_preparation_is_recorded(config):
    prepare(replace(config, size=4, validation="0.2"))
    recorded = json.loads((Path(config.output) / "dataset.json").read_text())["preparation"]
    assert recorded == {
        "source": config.source,
        "validation": "0.2",
        "test": None,
        "size": 4,
        "color": "keep",
        "shard_size": 6,
        "seed": 0,
        "on_error": "stop",
    }


def test_command_line_takes_several_sources_and_amounts(config, tmp_path, capsys):
    second = make_folder(tmp_path / "second", {"cow/1.png": picture(50)})
    main(
        [
            "--source",
            config.source[0],
            "--source",
            second,
            "--output",
            config.output,
            "--validation",
            "0.1",
            "--test",
            "3",
        ]
    )
    dataset = load_dataset(config.output)
    assert dataset.classes == ("cat", "cow", "dog")
    assert {name: split.num_images for name, split in dataset.splits.items()} == {
        "train": 16,
        "validation": 2,
        "test": 3,
    }
    assert capsys.readouterr().out.splitlines()[-1] == config.output


def test_digits_keep_their_levels(config):
    dataset = prepare(replace(config, source=["digits"], shard_size=1000, test="300"))
    assert (dataset.shape, dataset.splits["train"].num_images) == ((1, 8, 8), 1497)
    from sklearn.datasets import load_digits

    digits = load_digits()
    for key, (pixels, label) in read_split(config.output, "test").items():
        index = int(key.removeprefix("digits-"))
        np.testing.assert_array_equal(pixels // 16, np.minimum(digits.images[index], 15))
        assert dataset.classes[label] == str(digits.target[index])


def test_image_error_reaches_the_user_from_a_worker(config):
    make_folder(Path(config.source[0]), {"dog/zz.png": b"junk"})
    with pytest.raises(ImageError, match=r"dog/zz.png: not an image"):
        prepare(replace(config, num_workers=2))
    assert list(Path(config.output).parent.iterdir()) == []


def test_labels_of_some_sources_only_are_refused(config, tmp_path):
    flat = make_folder(tmp_path / "flat", {"x.png": picture(1, 8, 8, grey=True)})
    with pytest.raises(ValueError, match="flat: has no class folders or labels, but digits has"):
        prepare(replace(config, source=[flat], test="digits"))


def test_held_out_source_that_is_a_train_source_too_is_refused(config):
    with pytest.raises(ValueError, match=r"validation: .* give a source that --source does not name too"):
        replace(config, validation=config.source[0])


def test_gigantic_size_is_refused(config):
    with pytest.raises(
        ValueError,
        match=r"size: 100000 is not allowed; give SIZE or \[HEIGHT, WIDTH\], at least 1 and at most \d+ pixels",
    ):
        replace(config, size=100_000)


def test_transparent_pixels_become_white(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:2] = (10, 20, 30, 255)
    pixels[2:] = (99, 98, 97, 0)
    Image.fromarray(pixels).save(folder / "a.png")
    prepare(PrepareRun([str(folder)], str(tmp_path / "data"), num_workers=0))
    ((stored, _),) = read_split(tmp_path / "data", "train").values()
    assert (stored[:2] == (10, 20, 30)).all()
    assert (stored[2:] == 255).all()


def test_two_runs_with_one_output_are_refused(config):
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        locked(output.with_name(f".{output.name}.lock"), "it"),
        pytest.raises(ValueError, match="another process is writing it"),
    ):
        prepare(config)
