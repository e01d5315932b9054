"""Tables of images as sources."""

import io
import json

import numpy as np
import pytest
from conftest import read_split
from foreign import photo
from PIL import Image

from glow.config import PrepareRun
from glow.data.prepare.sources import open_source
from glow.data.prepare.writer import prepare

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path, columns, metadata=None):
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata(metadata)
    parquet.write_table(table, path, row_group_size=5)
    return str(path)


def images(start=0, count=12):
    return [photo(start + number, 8, 8, "PNG") for number in range(count)]


def prepared(tmp_path, source, **options):
    output = tmp_path / "data"
    dataset = prepare(
        PrepareRun(source=[source], output=str(output), num_workers=options.pop("num_workers", 0), **options)
    )
    return dataset, read_split(output, "train")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bytes_and_classes_are_read(tmp_path, num_workers):
    path = write(tmp_path / "x.parquet", {"image": images(), "label": [number % 3 for number in range(12)]})
    dataset, stored = prepared(tmp_path, path, num_workers=num_workers, shard_size=5)
    assert dataset.classes == ("0", "1", "2")
    for key, (pixels, label) in stored.items():
        assert label == int(key) % 3
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(photo(int(key), 8, 8, "PNG")))))


def test_structs_and_names_of_classes_are_those_of_the_package_datasets(tmp_path):
    structs = [{"bytes": content, "path": f"{number}.png"} for number, content in enumerate(images())]
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    for part in range(2):
        columns = {"image": structs, "label": [number % 2 for number in range(12)]}
        write(tmp_path / f"part-{part}.parquet", columns, {"huggingface": json.dumps(features)})
    dataset, stored = prepared(tmp_path, f"{tmp_path}/part-*.parquet")
    assert dataset.classes == ("cat", "dog")
    assert len(stored) == 24
    assert all(label == int(key[-6:]) % 2 for key, (_, label) in stored.items())


def test_labels_come_from_a_column_that_is_named_or_not_at_all(tmp_path):
    path = write(tmp_path / "x.parquet", {"image": images(), "label": [1] * 12, "kind": ["a", "b"] * 6})
    assert open_source(path, label="column:kind").labels == ["a", "b"] * 6
    assert open_source(path, label="none").labels is None


@pytest.mark.parametrize(
    ("columns", "label", "message"),
    [
        ({"photo": [b"x"]}, None, r"x\.parquet: has no column of images \(image, .*\), but photo"),
        ({"image": ["text"]}, None, r"x\.parquet: row 0: column image holds no bytes of an image"),
        ({"image": [b"x", None]}, None, r"x\.parquet: row 1: column image holds no bytes"),
        ({"image": [b"x"], "label": [-1]}, None, r"x\.parquet: row 0: its label is -1; a class number is whole"),
        ({"image": [b"x"], "label": [1.5]}, None, r"x\.parquet: row 0: its label is 1\.5"),
        ({"image": [b"x"]}, "column:no", r"label: 'column:no', but .*x\.parquet has the columns image"),
        ({"image": [b"x"]}, "cls", r"label: 'cls', but for .*x\.parquet choose column:NAME or none"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, columns, label, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_source(write(tmp_path / "x.parquet", columns), label=label)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 4, 100, 900])
def test_damaged_files_are_one_line(tmp_path, size):
    path = tmp_path / "x.parquet"
    write(path, {"image": images()})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"x\.parquet: ") as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)


def test_missing_package_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", {"image": images()})
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"Parquet needs pyarrow: pip install 'glow-flows\[parquet\]'"):
        open_source(path)
