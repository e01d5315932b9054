"""Linked data sets: shards that others wrote, read where they lie."""

import functools
import json
import threading
from http.server import ThreadingHTTPServer

import numpy as np
import pytest
import torch
from batches import same, take
from conftest import run_ranks
from foreign import write_as_img2dataset, write_with_shard_writer
from test_http import RangeHandler

from glow.config import PrepareRun
from glow.data.images import decoding
from glow.data.prepare.writer import prepare
from glow.data.read.batch import Share
from glow.data.read.loader import eval_batches
from glow.data.read.manifest import load_dataset
from glow.data.read.reader import SplitReader

SPLITS = {"validation": "5", "test": "4"}


pytestmark = pytest.mark.filterwarnings("ignore:.*these files are not read")


def linked(output, source, **options):
    options = {"size": 8, "link": True, **SPLITS, **options}
    prepare(PrepareRun(source=[str(source)], output=str(output), num_workers=0, **options))
    return output


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Shards below the folder of the data set that links them."""
    folder = tmp_path_factory.mktemp("linked")
    write_with_shard_writer(folder / "data/shards", count=31)
    return linked(folder / "data", folder / "data/shards")


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("linked")
    source = write_as_img2dataset(folder / "data/shards", count=31)
    return linked(folder / "data", f"{source}/{{00000..00003}}.tar", label="json:class.name", size=16)


def by_key(reader):
    batches = list(eval_batches(reader, 7, 0))
    return {
        key: (image, noise, label)
        for batch in batches
        for key, image, noise, label in zip(batch.keys, batch.images, batch.noise, batch.labels, strict=True)
    }


def images_of(data):
    return [by_key(SplitReader(data, split)) for split in ("train", "validation", "test")]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_linked_images_are_those_of_a_prepared_copy(written, tmp_path, split):
    copy = tmp_path / "copy"
    prepare(PrepareRun(source=[str(written / "shards")], output=str(copy), num_workers=0, size=8, **SPLITS))
    mine, theirs = by_key(SplitReader(written, split)), by_key(SplitReader(copy, split))
    assert mine.keys() == theirs.keys()
    for key, values in mine.items():
        assert all(torch.equal(a, b) for a, b in zip(values, theirs[key], strict=True))


@pytest.mark.parametrize("name", ["written", "downloaded"])
@pytest.mark.parametrize("num_processes", [2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_the_same_for_any_number_of_processes_and_go_on_exactly(request, name, num_processes, num_workers):
    data = request.getfixturevalue(name)
    whole = take(data, 6, batch_size=6, flip=True)
    parts = [
        take(data, 3, 6, 18, Share(rank, num_processes), flip=True, num_workers=num_workers)
        for rank in range(num_processes)
    ]
    for batch, pieces in zip(whole[3:], zip(*parts, strict=True), strict=True):
        assert torch.equal(batch.images, torch.cat([piece.images for piece in pieces]))
        assert torch.equal(batch.noise, torch.cat([piece.noise for piece in pieces]))
        assert torch.equal(batch.labels, torch.cat([piece.labels for piece in pieces]))


@pytest.mark.parametrize("name", ["written", "downloaded"])
def test_every_image_comes_once_an_epoch(request, name):
    data = request.getfixturevalue(name)
    keys = [key for batch in take(data, 22, batch_size=1) for key in batch.keys]
    assert len(set(keys)) == len(keys) == 22
    everything = images_of(data)
    assert len(set().union(*everything)) == sum(map(len, everything)) == 31


def test_linked_data_sets_are_small_and_made_the_same_again(downloaded, tmp_path):
    again = linked(tmp_path / "again", downloaded / "shards", label="json:class.name", size=16)
    first, second = load_dataset(downloaded), load_dataset(again)
    assert {name: split.sha256 for name, split in first.splits.items()} == {
        name: split.sha256 for name, split in second.splits.items()
    }
    assert first.decoder == decoding.decoder_version()
    assert not list(again.glob("*.tar"))
    other = load_dataset(linked(tmp_path / "other", downloaded / "shards", label="json:class.name", size=24))
    assert other.splits["train"].sha256 != first.splits["train"].sha256


@pytest.fixture
def server(downloaded):
    handler = type("Handler", (RangeHandler,), {"root": downloaded, "failures": {}, "requested": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()


def test_shards_of_a_server_are_linked_and_read(downloaded, server, tmp_path):
    spec = f"{server}/shards/{{00000..00003}}.tar"
    remote = linked(tmp_path / "remote", spec, label="json:class.name", size=16)
    assert all(same(a, b) for a, b in zip(take(downloaded, 8), take(remote, 8, num_workers=2), strict=True))
    assert load_dataset(remote).splits["train"].shards[0].location == f"{server}/shards/00000.tar"
    copied = tmp_path / "copied"
    prepare(PrepareRun([spec], str(copied), size=16, num_workers=0, label="json:class.name", **SPLITS))
    assert by_key(SplitReader(copied, "test")).keys() == by_key(SplitReader(remote, "test")).keys()


def changed(written, tmp_path, change):
    """A copy of the data set and its shards, after a change."""
    for path in [*written.glob("*.*"), *written.glob("shards/*")]:
        target = tmp_path / "data" / path.relative_to(written)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    change(tmp_path / "data")
    return tmp_path / "data"


def flip_a_byte(data):
    path = data / "shards/shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 1
    path.write_bytes(content)


def test_changed_sample_is_found_and_named(written, tmp_path):
    data = changed(written, tmp_path, flip_a_byte)
    with pytest.raises(
        ValueError, match=r"shard-000000\.tar: sample 00000\d is damaged or changed since it was indexed"
    ):
        images_of(data)


@pytest.mark.parametrize(
    ("place", "message"),
    [(20, "changed: its sha256"), (4096 + 9, "block 0 does not have"), (-9, "changed: its sha256")],
)
def test_changed_index_is_found(written, tmp_path, place, message):
    def change(data):
        path = data / "train.samples"
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    data = changed(written, tmp_path, change)
    with pytest.raises(ValueError, match=rf"train\.samples: damaged.*{message}"):
        SplitReader(data, "train").read([0])


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("pipe:cat /etc/passwd", "location 'pipe:.* is not allowed"),
        ("simplecache::s3://b/x", "is not allowed: a path, or one of http://"),
        ("file:///etc/passwd", "is not allowed"),
        ("a\nb", "is not allowed"),
        ("/etc/passwd", "its shard /etc/passwd lies outside of its folder; if you trust the data set, give the folder"),
        ("../../etc/passwd", "lies outside of its folder"),
        ("out/x.tar", "lies outside of its folder"),
    ],
)
def test_places_that_the_rules_do_not_allow_are_never_opened(written, tmp_path, location, message):
    def change(data):
        (data / "out").symlink_to("/etc")
        manifest = json.loads((data / "dataset.json").read_text())
        manifest["splits"]["train"]["shards"][0]["location"] = location
        (data / "dataset.json").write_text(json.dumps(manifest))

    data = changed(written, tmp_path, change)
    with pytest.raises(ValueError, match=message) as caught:
        SplitReader(data, "train")
    assert "\n" not in str(caught.value)


def test_files_elsewhere_are_read_below_a_root_that_the_user_gives(tmp_path, monkeypatch):
    source = write_with_shard_writer(tmp_path / "elsewhere", count=24)
    data = linked(tmp_path / "data", source)
    with pytest.raises(ValueError, match=r"GLOW_DATA_ROOT, or to train as --data\.root"):
        SplitReader(data, "train")
    inside = take(data, 2, root=str(tmp_path))
    monkeypatch.setenv("GLOW_DATA_ROOT", f"/nowhere:{tmp_path}")
    assert all(same(a, b) for a, b in zip(inside, take(data, 2), strict=True))


def test_another_decoder_is_a_warning(written, monkeypatch):
    monkeypatch.setattr("glow.data.read.reader.decoder_version", lambda: "Pillow 1")
    with pytest.warns(UserWarning, match="read with Pillow 1: pixels may differ a little"):
        SplitReader(written, "train")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": None}, "size is not set; with link give"), ({"on_error": "skip"}, "with link give stop")],
)
def test_options_that_do_not_go_with_links(options, message):
    with pytest.raises(ValueError, match=message):
        PrepareRun(["x"], "y", **{"link": True, "size": 8, **options})


def test_folders_cannot_be_linked(pets, tmp_path):
    with pytest.raises(ValueError, match=r"link: .* is not made of shards"):
        linked(tmp_path / "x", pets.source[0])


def first_batch(data):
    import torch.distributed as dist

    share = Share(dist.get_rank(), dist.get_world_size())
    return take(data, 1, 6, share=share)[0].images.flatten().tolist()


def test_real_processes_read_their_parts(written):
    parts = run_ranks(functools.partial(first_batch, str(written)), 2)
    assert np.concatenate(parts).tolist() == take(written, 1, 6)[0].images.flatten().tolist()


def test_folder_of_shards_says_how_to_make_a_data_set_of_it(tmp_path):
    source = write_with_shard_writer(tmp_path / "shards", count=3)
    with pytest.raises(ValueError, match=r"dataset\.json\); glow prepare --link true --source .*/shards --size SIZE"):
        load_dataset(source)
    linked(source, source, validation="1", test=None)
    assert load_dataset(source).splits["train"].num_images == 2
