"""The index of a split: one binary file, checked block by block."""

import dataclasses
import shutil

import numpy as np
import pytest
from batches import take
from foreign import as_first_version

from glow.data.read import samples
from glow.data.read.manifest import load_dataset
from glow.data.read.reader import SplitReader
from glow.data.read.samples import SampleRow, SamplesWriter, SampleTable


def rows(count):
    return [
        SampleRow(f"key-{i}", 600 * (i % 1500), 90 + i % 7, i * 7919, None if i % 3 else i % 10) for i in range(count)
    ]


def written(path, content):
    with SamplesWriter(path) as writer:
        for start in range(0, len(content), 700):
            writer.add(content[start : start + 700])
        return writer.finish()


def table(path, content, num_bytes=10**6, entry=None):
    firsts = np.array([*range(0, len(content), 1500), len(content)])
    return SampleTable(str(path), entry or written(path, content), None, firsts, np.full(len(firsts) - 1, num_bytes))


def test_what_was_written_is_read(tmp_path):
    content = rows(3333)
    found = table(tmp_path / "x", content)
    numbers = np.array([0, 1, 1023, 1024, 2500, 3332])
    for number, place in zip(numbers, found.at(numbers), strict=True):
        assert (place.number, *place[1:6]) == (number, *content[number])
    assert found.keys() == [row.key for row in content]
    assert found.image_bytes == sum(row.size for row in content)


def test_a_block_is_checked_when_it_is_used(tmp_path):
    content = rows(3333)
    entry = written(tmp_path / "x", content)
    data = bytearray((tmp_path / "x").read_bytes())
    data[samples.MAX_HEADER_BYTES + 1024 * 40] ^= 1
    (tmp_path / "x").write_bytes(data)
    found = table(tmp_path / "x", content, entry=entry)
    assert found.at(np.array([5]))[0].key == "key-5"
    with pytest.raises(ValueError, match="damaged or changed: block 1 does not have its digest"):
        found.at(np.array([5, 1030]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": -5}, "outside its shard or in another"),
        ({"offset": 10**6 - 50}, "outside its shard or in another"),
        ({"offset": 2**63 - 1}, "outside its shard or in another"),
        ({"offset": 650}, "outside its shard or in another"),
        ({"size": 0}, "outside its shard or in another"),
        ({"size": 2**31}, "2,147,483,648 bytes, but .* are the limit"),
        ({"label": -2}, "a key or class near number 0"),
        ({"key": ""}, "a key or class near number 0"),
        ({"key": "a\nb"}, "a key or class near number 0"),
        ({"key": "x" * 256}, "a key or class near number 0"),
        ({"key": "\u00e9"}, "a key or class near number 0"),
    ],
)
def test_hostile_rows_are_refused_though_their_digests_are_right(tmp_path, change, message):
    content = rows(20)
    content[2] = content[2]._replace(**change)
    with pytest.raises(ValueError, match=message):
        table(tmp_path / "x", content).at(np.array([7]))


def test_another_number_of_samples_form_or_size_is_refused(tmp_path):
    content = rows(20)
    entry = written(tmp_path / "x", content)
    with pytest.raises(ValueError, match=r"another index than that of dataset\.json"):
        table(tmp_path / "x", content[:19], entry=entry)
    with pytest.raises(ValueError, match=r"another index than that of dataset\.json"):
        SampleTable(str(tmp_path / "x"), entry, "shape [3, 8, 8]", np.array([0, 20]), np.array([10**6]))
    with pytest.raises(ValueError, match=r"its sha256 is not the one in dataset\.json"):
        table(tmp_path / "x", content, entry=dataclasses.replace(entry, num_bytes=entry.num_bytes + 1))
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(ValueError, match="missing or empty; prepare the data set again"):
        table(tmp_path / "x", content, entry=entry)


def test_a_data_set_with_the_index_is_that_without(dataset, tmp_path):
    older = as_first_version(shutil.copytree(dataset, tmp_path / "older"))
    assert load_dataset(older).splits["train"].sha256 == load_dataset(dataset).splits["train"].sha256
    one, two = SplitReader(older, "train"), SplitReader(dataset, "train")
    assert one.keys() == two.keys()
    assert one.read(range(97)) == two.read(range(97))


def test_of_a_damaged_sample_no_other_is_lost(dataset, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "copy")
    place = SplitReader(copy, "train")._places.at(np.array([31]))[0]
    with (copy / "train-00003.tar").open("r+b") as file:
        file.seek(place.offset + place.size // 2)
        file.write(b"damage")
    with pytest.raises(ValueError, match=rf"train-00003\.tar: sample {place.key} is damaged or changed since it was"):
        SplitReader(copy, "train").read([30, 31, 32])
    found, errors = SplitReader(copy, "train").read_readable(range(97))
    assert (len(found), list(errors)) == (96, [31])
    (batch,) = take(copy, 1, batch_size=97, on_error="skip")
    assert [place.key in problem for problem in batch.skipped] == [True]
    assert place.key not in batch.keys


def test_a_damaged_copy_is_fetched_again(tmp_path):
    content = rows(3333)
    entry = written(tmp_path / "x", content)
    firsts = np.array([0, 1500, 3000, 3333])
    for place in (20, samples.MAX_HEADER_BYTES + 9):
        copy = tmp_path / "copy"
        data = bytearray((tmp_path / "x").read_bytes())
        data[place] ^= 1
        copy.write_bytes(data)
        with pytest.raises(ValueError, match="this copy is removed, so that the next run fetches it again"):
            SampleTable(str(copy), entry, None, firsts, np.full(3, 10**6), is_copy=True).at(np.array([3]))
        assert not copy.exists()
