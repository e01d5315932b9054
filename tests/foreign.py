"""Shards as others write them."""

import io
import json
import tarfile

import numpy as np
import webdataset
from PIL import Image


def photo(seed, height=24, width=32, kind="JPEG"):
    """A smooth random image file."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((width, height))
    stream = io.BytesIO()
    image.save(stream, kind, quality=90)
    return stream.getvalue()


def write_with_shard_writer(folder, count=24, maxcount=10, kind="png", size=8):
    """Shards of the package webdataset, with classes."""
    folder.mkdir(parents=True)
    with webdataset.ShardWriter(str(folder / "shard-%06d.tar"), maxcount=maxcount, verbose=0) as writer:
        for number in range(count):
            image = photo(number, size, size, "PNG" if kind == "png" else "JPEG")
            writer.write({"__key__": f"{number:06d}", kind: image, "cls": str(number % 3).encode()})
    return folder


def write_as_img2dataset(folder, count=24, per_shard=10):
    """Shards in the layout of img2dataset: jpg, txt and json, and notes beside them."""
    folder.mkdir(parents=True)
    for shard in range(-(-count // per_shard)):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(shard * per_shard, min(count, (shard + 1) * per_shard)):
                key = f"{shard:05d}{number % per_shard:04d}"
                note = {"caption": f"picture {number}", "key": key, "class": {"name": ["cat", "dog"][number % 2]}}
                sizes = 24 + 8 * (number % 3), 32
                add(tar, f"{key}.jpg", photo(number, *sizes))
                add(tar, f"{key}.json", json.dumps(note).encode())
                add(tar, f"{key}.txt", f"picture {number}".encode())
        (folder / f"{shard:05d}_stats.json").write_text("{}")
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    return folder


def as_first_version(data):
    """Make a data set what version 0.1.0 wrote: with an index of text beside each shard alone."""
    manifest = json.loads((data / "dataset.json").read_text())
    for split in manifest["splits"].values():
        (data / split.pop("index")["path"]).unlink()
    (data / "dataset.json").write_text(json.dumps(manifest))
    return data


def add(tar, name, content):
    """Append a file to a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_tar(path, files):
    """A tar of these files, in this order."""
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            add(tar, name, content)
    return str(path)
