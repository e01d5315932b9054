"""The order of training, and batches: every image once, the same for any number of processes and workers."""

import contextlib
import dataclasses
import itertools
import json
import shutil
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from conftest import read_split
from PIL import Image

from glow.config import DataConfig
from glow.data.read import files
from glow.data.read.batch import Batch, Share
from glow.data.read.loader import augment, dequantization_noise, eval_batches, train_batches
from glow.data.read.manifest import load_dataset
from glow.data.read.order import TrainingOrder, epoch_order
from glow.data.read.reader import SplitReader
from glow.randomness import generator, uniform_noise


@pytest.mark.parametrize(
    ("num_images", "run_length", "batch_size"), [(97, 5, 10), (64, 1, 64), (7, 3, 10), (1, 1, 1), (100, 100, 1)]
)
def test_an_epoch_holds_every_image_once(num_images, run_length, batch_size):
    order = epoch_order(num_images, run_length, batch_size, seed=0, epoch=0)
    assert sorted(order.tolist()) == list(range(num_images))


def test_order_depends_on_seed_and_epoch():
    orders = [epoch_order(97, 5, 10, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert epoch_order(97, 5, 10, 1, 1).tolist() == orders[3]


def test_a_range_of_slots_reads_long_runs():
    order = epoch_order(6400, 32, 64, seed=0, epoch=0).reshape(100, 64)
    mine = np.sort(order[:, 16:32].ravel())
    num_runs = np.count_nonzero(np.diff(mine) != 1) + 1
    # 1,600 images: 50 runs of 32 were they not cut at the ends of the range and by the random phase.
    assert num_runs < 60


def test_sequence_goes_on_over_epochs_without_gaps():
    order = TrainingOrder(97, 5, 10, seed=0)
    epochs, images = order.at(np.arange(3 * 97))
    assert np.array_equal(epochs, np.repeat([0, 1, 2], 97))
    for epoch in range(3):
        assert sorted(images[epochs == epoch].tolist()) == list(range(97))
    assert np.array_equal(order.at(np.array([150]))[1], images[150:151])


def take(dataset, count, batch_size=10, images_seen=0, share=None, **config):
    return list(
        itertools.islice(train_batches(DataConfig(str(dataset), **config), batch_size, 0, images_seen, share), count)
    )


def same(a, b):
    return (
        a.keys == b.keys
        and torch.equal(a.images, b.images)
        and torch.equal(a.noise, b.noise)
        and torch.equal(a.labels, b.labels)
    )


@pytest.mark.parametrize("world", [2, 3, 7, 10])
def test_global_batches_are_the_same_for_any_number_of_processes(dataset, world):
    alone = take(dataset, 12, flip=True, shift=2)
    shared = [take(dataset, 12, share=Share(rank, world), flip=True, shift=2) for rank in range(world)]
    for step, batch in enumerate(alone):
        assert same(Batch.concatenate([part[step] for part in shared]), batch)


def test_global_batches_are_the_same_for_any_number_of_workers(dataset):
    assert all(same(a, b) for a, b in zip(take(dataset, 12), take(dataset, 12, num_workers=2), strict=True))


def test_every_image_is_seen_once_an_epoch(dataset):
    keys = [key for batch in take(dataset, 97) for key in batch.keys]
    expected = SplitReader(dataset, "train").keys()
    for epoch in range(10):
        assert sorted(keys[97 * epoch : 97 * (epoch + 1)]) == sorted(expected)
    assert keys[:97] != keys[97:194]


def test_training_goes_on_from_any_position(dataset):
    through, resumed = take(dataset, 25), take(dataset, 5, images_seen=200)
    assert all(same(a, b) for a, b in zip(through[20:], resumed, strict=True))


def test_noise_changes_with_the_epoch_and_lies_within_0_and_1(dataset):
    batches = Batch.concatenate(take(dataset, 20))
    noise = {}
    for key, row in zip(batches.keys, batches.noise, strict=True):
        noise.setdefault(key, []).append(row)
    twice = next(rows for rows in noise.values() if len(rows) == 2)
    assert not torch.equal(*twice)
    assert batches.noise.min() > 0
    assert batches.noise.max() < 1


def test_more_processes_than_images_in_a_batch_are_refused(dataset):
    with pytest.raises(ValueError, match=r"train\.batch_size: 4 is not allowed with 5 processes; 5 or more is"):
        take(dataset, 1, batch_size=4, share=Share(0, 5))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_reads_every_image_exactly_once(dataset, batch_size, world):
    reader = SplitReader(dataset, "test")
    batches = [batch for rank in range(world) for batch in eval_batches(reader, batch_size, 0, Share(rank, world))]
    assert [key for batch in batches for key in batch.keys] == reader.keys()
    assert len(reader) == load_dataset(dataset).splits["test"].num_images == 23
    first = batches[0]
    assert torch.equal(first.noise[0], torch.from_numpy(dequantization_noise(first.keys[0], (3, 8, 8), 0)))


def test_evaluation_may_stop_early(dataset):
    reader = SplitReader(dataset, "test")
    assert sum(len(batch) for batch in eval_batches(reader, 4, 0, num_images=9)) == 9


def test_images_and_labels_are_those_that_webdataset_reads(dataset):
    ours = Batch.concatenate(list(eval_batches(SplitReader(dataset, "train"), 10, 0)))
    theirs = read_split(dataset, "train")
    assert list(theirs) == ours.keys
    for (pixels, label), image, our_label in zip(theirs.values(), ours.images, ours.labels, strict=True):
        assert np.array_equal(pixels.transpose(2, 0, 1), image.numpy())
        assert label == our_label


def test_reader_opens_only_the_shards_it_needs(dataset, monkeypatch):
    reader = SplitReader(dataset, "train")
    opened = []
    read = SplitReader._read_bytes
    monkeypatch.setattr(
        SplitReader, "_read_bytes", lambda self, shard, a, b: opened.append(shard.path) or read(self, shard, a, b)
    )
    samples = reader.read([35, 36, 38, 40])
    assert sorted(samples) == [35, 36, 38, 40]
    assert opened == ["train-00003.tar", "train-00004.tar"]
    # Far apart, parts are asked for one by one; near each other, the gap is read too.
    opened.clear()
    monkeypatch.setattr("glow.data.read.reader.GAP_BYTES", 0)
    assert reader.read([35, 36, 38, 40]) == samples
    assert opened == ["train-00003.tar", "train-00003.tar", "train-00004.tar"]


def test_augmentation_mirrors_and_shifts_half_and_half():
    image = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    flipped = [augment(image, DataConfig(flip=True), generator(0, "test", i)) for i in range(200)]
    counts = Counter(np.array_equal(result, image) for result in flipped)
    assert 60 < counts[True] < 140
    assert all(np.array_equal(r, image) or np.array_equal(r, image[:, :, ::-1]) for r in flipped)
    shifted = {augment(image, DataConfig(shift=1), generator(0, "test", i)).tobytes() for i in range(200)}
    assert len(shifted) == 9
    moved = np.concatenate([image[:, 1:], image[:, -1:]], axis=1)
    assert moved.tobytes() in shifted


def test_streams_of_random_numbers_differ_in_every_argument():
    draws = [
        uniform_noise(generator(*arguments), (4,)).tobytes()
        for arguments in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", "1"), (0, "a", 1, 1)]
    ]
    assert len(set(draws)) == len(draws)


def test_noise_is_strictly_between_0_and_1_at_its_ends():
    class Ends:
        bit_generator = type("Bits", (), {"random_raw": lambda self, count: np.array([2**64 - 2**16] * count, "u8")})()

    noise = uniform_noise(Ends(), (5,))
    assert noise.dtype == np.float32
    assert 0 < noise[0] == noise[4] < 2**-15 < 1 - 2**-15 < noise[1] < 1


def test_noise_is_uniform_and_its_cells_are_independent():
    noise = uniform_noise(generator(0, "test"), (1000, 3, 11))
    assert noise.shape == (1000, 3, 11)
    counts = np.bincount((noise.ravel() * 32).astype(int), minlength=32)
    assert ((counts - noise.size / 32) ** 2).sum() / (noise.size / 32) < 70  # chi-squared, 31 degrees of freedom
    for lag in (1, 2, 3, 4):  # of neighbouring 16-bit words of the generator
        assert abs(np.corrcoef(noise.ravel()[:-lag], noise.ravel()[lag:])[0, 1]) < 4 / np.sqrt(noise.size)


def broken(dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    return copy


def test_missing_data_set_and_split_are_clear_errors(dataset, tmp_path):
    with pytest.raises(
        ValueError, match=r"not a data set \(no dataset\.json\); make one with python -m pipelines\.prepare"
    ):
        SplitReader(tmp_path, "train")
    with pytest.raises(ValueError, match="has no split 'dev'; it has"):
        SplitReader(dataset, "dev")


def test_shard_of_another_size_is_a_clear_error(dataset, tmp_path):
    copy = broken(dataset, tmp_path)
    with (copy / "train-00000.tar").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"train-00000\.tar: \d+ bytes, but dataset\.json says"):
        SplitReader(copy, "train").read([0])
    (copy / "train-00000.tar").unlink()
    with pytest.raises(ValueError, match=r"train-00000\.tar: cannot be read: there is no such file"):
        SplitReader(copy, "train").read([0])


def test_damaged_index_is_a_clear_error(dataset, tmp_path):
    copy = broken(dataset, tmp_path)
    index = copy / "test-00000.idx"
    lines = index.read_text().splitlines()
    index.write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"test-00000\.idx: damaged index"):
        SplitReader(copy, "test")
    index.write_text("")
    with pytest.raises(ValueError, match=r"test-00000\.idx: damaged index"):
        SplitReader(copy, "test")
    index.write_text("\n".join([lines[0], "png x y z", *lines[2:]]))
    with pytest.raises(ValueError, match=r"test-00000\.idx: damaged index, .* at line 2"):
        SplitReader(copy, "test")
    index.unlink()
    with pytest.raises(ValueError, match="the index of this shard is missing"):
        SplitReader(copy, "test")


@pytest.mark.parametrize("path", ["../elsewhere.tar", "pipe:cat x", "/etc/passwd"])
def test_manifest_cannot_point_elsewhere(dataset, tmp_path, path):
    copy = broken(dataset, tmp_path)
    manifest = json.loads((copy / "dataset.json").read_text())
    manifest["splits"]["train"]["shards"][0]["path"] = path
    (copy / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is not the plain name of a file beside it"):
        load_dataset(copy)


def sample_of(reader):
    return reader.read([1])[1]


def test_every_damage_of_a_png_is_noticed(dataset):
    reader = SplitReader(dataset, "train")
    sample, rng = sample_of(reader), np.random.default_rng(0)
    right = reader.decode(sample)
    for trial in range(300):
        png = bytearray(sample.png)
        place = int(rng.integers(len(png)))
        if trial % 3:
            png[place] ^= 1 << int(rng.integers(8))
        else:
            png[place:] = bytes(len(png) - place) if trial % 2 else b""
        damaged = dataclasses.replace(sample, png=bytes(png))
        # A changed end marker or signature leaves the pixels as they are.
        with contextlib.suppress(ValueError):
            assert np.array_equal(reader.decode(damaged), right), (trial, place)


def test_damaged_or_foreign_image_is_a_clear_error(dataset, tmp_path):
    copy = broken(dataset, tmp_path)
    reader = SplitReader(copy, "train")
    shard = copy / "train-00000.tar"
    data = bytearray(shard.read_bytes())
    start, size = reader._indices[0].spans[0, :2]
    data[start + 20 : start + size] = bytes(size - 20)
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"sample class\d-\d+ is damaged"):
        reader.decode(reader.read([0])[0])
    with pytest.raises(ValueError, match=r"sample class\d-\d+ is damaged"):
        reader.decode(type(sample_of(reader))("class0-0", b"", b""))
    Image.new("RGB", (9, 8)).save(tmp_path / "other.png")
    sample = reader.read([1])[1]
    other = type(sample)(sample.key, (tmp_path / "other.png").read_bytes(), None)
    with pytest.raises(ValueError, match=r"is 9x8 RGB, but dataset\.json says shape \[3, 8, 8\]"):
        reader.decode(other)


# Over http, and when reading fails


class RangeHandler(BaseHTTPRequestHandler):
    """Serves files with ranges; fails first for as many requests as ``failures`` says, by path."""

    root, failures, requested = None, {}, []

    def do_GET(self):
        self.requested.append(self.path)
        file = self.root / self.path.lstrip("/")
        if self.failures.get(self.path, 0) > 0:
            self.failures[self.path] -= 1
            self.send_error(503)
        elif not file.is_file():
            self.send_error(404)
        elif "Range" in self.headers:
            data = file.read_bytes()
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.end_headers()
            self.wfile.write(data[first : last + 1])
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(file.read_bytes())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(dataset, monkeypatch):
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.01, 0.01))
    handler = type("Handler", (RangeHandler,), {"root": dataset, "failures": {}, "requested": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}", handler
        http_server.shutdown()
        thread.join()


def test_batches_over_http_are_those_of_the_files(dataset, server):
    url, _ = server
    assert all(same(a, b) for a, b in zip(take(dataset, 12), take(url, 12), strict=True))
    local, remote = (list(eval_batches(SplitReader(place, "test"), 7, 0)) for place in (dataset, url))
    assert all(same(a, b) for a, b in zip(local, remote, strict=True))


def test_failed_request_is_tried_again(dataset, server):
    url, handler = server
    handler.failures |= {"/dataset.json": 2, "/train-00003.tar": 1}
    assert SplitReader(url, "train").read([33]) == SplitReader(dataset, "train").read([33])
    assert handler.requested.count("/dataset.json") == 3
    assert handler.requested.count("/train-00003.tar") == 2


def test_request_that_keeps_failing_is_an_error_that_names_the_shard(server):
    url, handler = server
    reader = SplitReader(url, "train")
    handler.failures["/train-00003.tar"] = 99
    with pytest.raises(ValueError, match=r"/train-00003\.tar: cannot be read, tried 3 times: HTTP Error 503"):
        reader.read([33])
    with pytest.raises(ValueError, match=r"/nothing: not a data set \(no dataset\.json\)"):
        SplitReader(f"{url}/nothing", "train")


def test_failed_local_read_is_tried_again(dataset, monkeypatch):
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.01,))
    reader, read, failures = SplitReader(dataset, "train"), files._read_local, [1]

    def flaky(*arguments):
        if failures and failures.pop():
            raise OSError(5, "Input/output error")
        return read(*arguments)

    monkeypatch.setattr(files, "_read_local", flaky)
    assert len(reader.read([0, 1])) == 2


def test_server_without_ranges_is_a_clear_error(dataset, server, monkeypatch):
    url, handler = server
    reader = SplitReader(url, "train")
    monkeypatch.setattr(handler, "headers", {}, raising=False)
    monkeypatch.setattr(handler, "parse_request", lambda self: parse(self) and not setattr(self, "headers", {}))
    with pytest.raises(ValueError, match="does not answer requests for parts of a file"):
        reader.read([0])


class OddHandler(BaseHTTPRequestHandler):
    """Answers requests for parts in ways that are allowed, or wrong: by the first word of the path."""

    root = None

    def do_GET(self):
        kind, _, name = self.path[1:].partition("/")
        content = (self.root / name).read_bytes()
        asked = self.headers.get("Range")
        if asked is None:
            self.send_response(200)
        else:
            start, end = (int(word) for word in asked.removeprefix("bytes=").split("-"))
            part = content[start : end + 1]
            self.send_response(206)
            if kind == "size-unknown":
                self.send_header("Content-Range", f"bytes {start}-{end}/*")
            if kind == "short":
                part = part[:-10]
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            content = part
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def odd_server(dataset, monkeypatch):
    monkeypatch.setattr(files, "RETRY_DELAYS_S", (0.01,))
    handler = type("Handler", (OddHandler,), {"root": dataset})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()
        thread.join()


def test_server_may_leave_the_size_open(dataset, odd_server):
    numbers = range(5, 25)
    assert SplitReader(f"{odd_server}/size-unknown", "train").read(numbers) == SplitReader(dataset, "train").read(
        numbers
    )


@pytest.mark.parametrize("kind", ["short", "no-range"])
def test_wrong_answers_of_a_server_are_tried_again_and_name_the_shard(odd_server, kind):
    reader = SplitReader(f"{odd_server}/{kind}", "train")
    with pytest.raises(ValueError, match=r"/train-00000\.tar: cannot be read, tried 2 times: \d+ bytes, not those"):
        reader.read([3])


parse = BaseHTTPRequestHandler.parse_request
