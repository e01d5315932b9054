"""Data sets in a bucket: a real S3 server on this machine."""

import logging

import pytest
from batches import same, take

from glow.config import PrepareRun
from glow.data.prepare.writer import prepare
from glow.data.read.manifest import load_dataset
from glow.data.read.reader import SplitReader
from glow.data.read.shard_names import shard_names

moto_server = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def bucket(dataset):
    """The data set ``dataset`` as s3://shards/tiny."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        system = s3fs.S3FileSystem(skip_instance_cache=True)
        system.mkdir("shards")
        for path in dataset.iterdir():
            system.put_file(str(path), f"shards/tiny/{path.name}")
        yield "s3://shards/tiny"
    server.stop()


def test_batches_from_a_bucket_are_those_of_the_files(dataset, bucket):
    assert load_dataset(bucket) == load_dataset(dataset)
    assert all(same(a, b) for a, b in zip(take(dataset, 12), take(bucket, 12), strict=True))
    assert all(same(a, b) for a, b in zip(take(dataset, 12), take(bucket, 12, num_workers=2), strict=True))


def test_shards_of_a_bucket_are_linked_and_copied_as_those_of_the_disk(dataset, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOW_DATA_ROOT", str(dataset))
    results = []
    for place in (dataset, bucket):
        for link in (True, False):
            output = str(tmp_path / f"{len(results)}")
            prepare(PrepareRun([f"{place}/train-*.tar"], output, size=8, link=link, num_workers=0, validation="9"))
            results.append(output)
    linked, copied, linked_s3, copied_s3 = results
    assert load_dataset(linked_s3).splits["train"].shards[0].location == f"{bucket}/train-00000.tar"
    for here, there in ((linked, linked_s3), (copied, copied_s3)):
        assert all(same(a, b) for a, b in zip(take(here, 12), take(there, 12, num_workers=2), strict=True))


def test_what_is_missing_is_named(bucket):
    with pytest.raises(ValueError, match=r"s3://shards/other: not a data set"):
        load_dataset("s3://shards/other")
    with pytest.raises(ValueError, match="has no split 'more'"):
        SplitReader(bucket, "more")


def test_folder_of_a_bucket_stands_for_its_tars(dataset, bucket):
    names = shard_names(f"{bucket}/")
    assert names == [f"{bucket}/{path.name}" for path in sorted(dataset.glob("*.tar"))]
