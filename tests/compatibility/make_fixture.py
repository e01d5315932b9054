"""Make the archive that ``test_compatibility.py`` reads: a data set, runs, and what the code of the day makes of them.

Run it at the root of a checkout whose files later versions have to go on reading:
``python tests/compatibility/make_fixture.py tests/compatibility/0.1.0.tar.gz``.
"""

import hashlib
import json
import platform
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path.cwd()))

from pipelines import evaluate, prepare, sample, train

STEPS = 4
SMALL = [
    "--model.num_levels",
    "2",
    "--model.num_steps_per_level",
    "2",
    "--model.hidden_channels",
    "8",
    "--model.num_bits",
    "4",
]
LENGTH = f"--train.batch_size 6 --train.log_every 1 --train.validate_every 4 --train.checkpoint_every {STEPS}".split()
RUNS = {
    "affine": [*SMALL, "--data.num_workers", "0"],
    "mixture": [
        *SMALL, "--model.hidden_channels", "4", "--model.coupling", "mixture", "--model.network", "gated",
        "--model.num_network_blocks", "1", "--model.num_mixtures", "2", "--model.num_steps_per_level", "1",
        "--model.mask", "checkerboard", "--model.class_conditional", "true", "--data.num_workers", "0",
        "--model.dequantization", "variational", "--model.dequantization_steps", "1",
    ],
    "vectors": [
        "--vectors.name", "moons", "--vectors.num_points", "60",
        "--flow.num_layers", "2", "--flow.hidden_channels", "8",
    ],
}  # fmt: skip


def arguments(name, root, num_steps):
    """Return the arguments of the training stage for a run in the folder ``root``."""
    data = [] if name == "vectors" else ["--data.path", str(root / "data")]
    return [*RUNS[name], *LENGTH, *data, "--output", str(root / name), "--train.num_steps", str(num_steps)]


def write_images(folder):
    """Write 28 of scikit-learn's digits as PNGs, in class folders."""
    digits = load_digits()
    for number in range(28):
        path = folder / str(digits.target[number] % 3) / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.minimum(16 * digits.images[number], 255).astype(np.uint8)).save(path)


def platform_of_figures():
    """Return what decides about the last bits of results."""
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    vectors = torch.backends.cpu.get_cpu_capability()  # one name of a CPU stands for several generations
    return {"torch": torch.__version__, "cpu": cpu, "python": platform.machine(), "vectors": vectors}


def checksums(checkpoint):
    """Return the sha256 of each file of tensors in a checkpoint."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in checkpoint.glob("*.safetensors")}


def main(archive):
    """Train to step 4, keep that; sample and evaluate it; go on to step 8 elsewhere, and keep what came out."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, later = Path(folder) / "fixture", Path(folder) / "later"
        write_images(Path(folder) / "images")
        source = ["--source", str(Path(folder) / "images"), "--shard_size", "8", "--num_workers", "0"]
        prepare.main([*source, "--output", str(root / "data"), "--validation", "4", "--test", "8"])
        for name in RUNS:
            train.main(arguments(name, root, STEPS))
        shutil.copytree(root, later)
        expected = {"platform": platform_of_figures(), "step_8": {}}
        for name in RUNS:
            train.main(arguments(name, later, 2 * STEPS))
            expected["step_8"][name] = checksums(later / name / "checkpoints" / f"step-{2 * STEPS:08d}")
            folder = root / "expected" / name
            folder.mkdir(parents=True)
            shutil.copy(later / name / "metrics.jsonl", folder)
            drawn = ["--checkpoint", str(root / name), "--output", str(later / "samples" / name), "--seed", "3"]
            if name == "vectors":
                shutil.copy(
                    sample.main([*drawn, "--num_points", "64", "--num_kl_points", "100"]) / "samples.npy", folder
                )
            else:
                shutil.copy(sample.main([*drawn, "--num_images", "16"]) / "grid-t0.70.png", folder)
                report = evaluate.main(
                    ["--checkpoint", str(root / name), "--data", str(root / "data"), "--output", str(later / "report")]
                )
                shutil.copy(report / "per_image.csv", folder)
            shutil.rmtree(root / name / "tensorboard")
            (root / name / "environment.json").unlink()
        (root / "expected" / "platform.json").write_text(json.dumps(expected, indent=1))
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(root, arcname=".")


if __name__ == "__main__":
    main(sys.argv[1])
