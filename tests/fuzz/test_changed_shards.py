"""Changed files of strangers' shards, tables and linked data sets, as test_changed_runs."""

import json
import shutil

import pytest
from attempts import attempt, fuzzed
from foreign import photo, write_tar
from hypothesis import given
from hypothesis import strategies as st
from mutations import changed_bytes, changed_json

from glow.data.read.loader import eval_batches
from glow.data.read.reader import SplitReader
from pipelines import prepare

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FILES = []
for number in range(5):
    note = json.dumps({"class": f"k{number % 2}", "at": {"x": number}}).encode()
    FILES += [(f"{number}.png", photo(number, 8, 8, "PNG")), (f"{number}.json", note)]


def stored(data):
    reader = SplitReader(data, "train")
    return {
        key: (image.numpy().tobytes(), int(label))
        for batch in eval_batches(reader, 3, 0)
        for key, image, label in zip(batch.keys, batch.images, batch.labels, strict=True)
    }


def check_source(path, change, root, *options):
    """Prepare a changed source: it ends in one line, and writes nothing or a data set that can be read."""
    content, right = path.read_bytes(), None

    def prepared():
        shutil.rmtree(root / "data", ignore_errors=True)
        attempt(prepare.main, "--source", path, "--output", root / "data", "--num_workers", 0, *options)
        return (root / "data/dataset.json").exists()

    assert prepared()
    right = {pixels for pixels, _ in stored(root / "data").values()}

    @fuzzed
    @given(change(content))
    def stays_right(changed):
        path.write_bytes(changed)
        if prepared():
            try:
                assert {pixels for pixels, _ in stored(root / "data").values()} <= right
            except TypeError:  # the change took the labels away
                assert SplitReader(root / "data", "train").dataset.classes is None
        assert not [*root.glob(".data.partial*")]

    stays_right()


@pytest.mark.parametrize("links", [False, True])
def test_shards(tmp_path, links):
    path = tmp_path / "shard.tar"
    write_tar(path, FILES)
    options = ["--label", "json:class", "--size", 8, *["--link", "true"] * links]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOW_DATA_ROOT", str(tmp_path))
        if links:  # pixels are decoded later: a PNG that its checksums refuse is an error then
            check_linking(path, tmp_path, *options)
        else:
            check_source(path, changed_bytes, tmp_path, *options)


def check_linking(path, root, *options):
    content = path.read_bytes()

    @fuzzed
    @given(changed_bytes(content))
    def stays_right(changed):
        path.write_bytes(changed)
        shutil.rmtree(root / "data", ignore_errors=True)
        attempt(prepare.main, "--source", path, "--output", root / "data", *options)
        if (root / "data/dataset.json").exists():
            attempt(lambda arguments: stored(arguments[0]), root / "data")

    stays_right()


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [content for name, content in FILES if name.endswith("png")]
    parquet.write_table(pa.table({"image": images, "label": [0, 1, 0, 1, 2]}), tmp_path / "x.parquet")
    check_source(tmp_path / "x.parquet", changed_bytes, tmp_path)


@pytest.mark.parametrize("name", ["dataset.json", "train.samples", "shard.tar"])
def test_linked_data_set(tmp_path, name):
    folder = tmp_path / "data"
    folder.mkdir()
    write_tar(folder / "shard.tar", FILES)
    options = ("--label", "json:class", "--size", 8, "--link", "true")
    attempt(prepare.main, "--source", folder / "shard.tar", "--output", folder, *options)
    right, content = stored(folder), (folder / name).read_bytes()
    assert len(right) == 5
    change = changed_json(content) if name == "dataset.json" else changed_bytes(content)

    @fuzzed
    @given(change | st.just(content))
    def stays_right(changed):
        (folder / name).write_bytes(changed)
        found = attempt(lambda arguments: stored(arguments[0]), folder)
        if found is not None:
            # The shape, and names of classes, are not secured against somebody who writes dataset.json.
            known = [{key: image for key, (image, _) in right.items()}]
            assert name == "dataset.json" or {key: image for key, (image, _) in found.items()} in known

    stays_right()
