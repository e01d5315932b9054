"""How long the first batch of a very large data set takes, and how much memory.

``python benchmarks/first_batch.py --num_images 100000000`` makes a linked data set whose shards are all one tar, with
an index of that many samples (36 bytes each), and asks for the first training batch, in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from glow.data.images.decoding import decoder_version
from glow.data.prepare.shards import add_member
from glow.data.read.manifest import Dataset, Shard, Split, form_text, write_manifest
from glow.data.read.samples import SampleRow, SamplesWriter

PER_SHARD = 10_000
SHAPE = (3, 32, 32)

# In a process of its own: what is counted begins after the imports.
FIRST_BATCH = """
import json, resource, sys, time
from glow.config import DataConfig
from glow.data.read.loader import train_batches
path, batch_size, order = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) or None
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
batch = next(train_batches(DataConfig(path), batch_size, 0, order=order))
seconds = time.perf_counter() - start
added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"seconds": round(seconds, 3), "added_megabytes": round(added / 1024), "images": len(batch)}))
"""


def main() -> None:
    """Make the data set, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_images", type=int, default=1_280_000)
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--order", type=int, default=0, help="version of the order; 0: that of new trainings")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.num_images)
        command = [sys.executable, "-c", FIRST_BATCH, folder, str(options.batch_size), str(options.order)]
        results = [json.loads(subprocess.check_output(command)) for _ in range(options.repeats)]
    print(f"{options.num_images:,} images, global batch {options.batch_size}: the first batch takes")
    for result in results:
        print(f"  {result['seconds']} s, {result['added_megabytes']} MB")


def make(folder: Path, num_images: int) -> None:
    """Write a data set of ``num_images`` samples, which lie in the same tar over and over."""
    rng = np.random.default_rng(0)
    places = []
    with (folder / "images.tar").open("wb") as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for number in range(PER_SHARD):
            image = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32)).save(image, "PNG")
            _, offset, size, _ = add_member(tar, stream, f"{number:05d}.png", image.getvalue())
            places.append((offset, size, zlib.crc32(image.getvalue())))
    num_bytes = (folder / "images.tar").stat().st_size
    shards = []
    with SamplesWriter(folder / "train.samples", form_text(SHAPE, None, None)) as writer:
        for first in range(0, num_images, PER_SHARD):
            count = min(PER_SHARD, num_images - first)
            writer.add([SampleRow(f"{first + row:012d}", *places[row], None) for row in range(count)])
            shards.append(Shard(f"{len(shards):06d}.tar", count, num_bytes, "0" * 64, "images.tar"))
        splits = {"train": Split.of(shards, writer.finish())}
    write_manifest(folder, Dataset("large", SHAPE, 8, None, splits, {}, decoder=decoder_version()))


if __name__ == "__main__":
    main()
