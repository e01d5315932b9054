"""Fixtures: tiny data sets made by the prepare stage, a run of two gloo processes, tiny models."""

import gc
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import webdataset
from accelerate.state import AcceleratorState
from pictures import make_folder, picture
from PIL import Image

from glow.config import ModelConfig, PrepareRun
from glow.data.prepare.writer import prepare
from glow.data.read.manifest import load_dataset
from glow.execution.memory import Tape
from glow.models.glow import Glow

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs, except from ``pytest tests/gpu``: other tests compare bits of a CPU, and fork, which CUDA forbids."""
    if not all("gpu" in Path(argument).parts for argument in config.args):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def write_images(folder: Path, count: int, shape: tuple[int, int, int] = (3, 8, 8), classes: int = 2) -> Path:
    """Write smooth random PNGs, in class folders."""
    channels, height, width = shape
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, size=(2, 2, channels), dtype=np.uint8)
        image = Image.fromarray(coarse[:, :, 0] if channels == 1 else coarse).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        path = folder / f"class{number % classes}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


@pytest.fixture(autouse=True, scope="session")
def autograd_without_threads() -> None:
    """Let autograd start while there is no other device than the CPU: FakeTensorMode seems to be one, and with
    threads for devices no forked process could make a backward pass.
    """
    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def reset_accelerate() -> Iterator[Callable[[], None]]:
    """Accelerate keeps its state for the life of a process; each test begins without, and may ask for that again."""

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)

    yield reset
    reset()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 3x8x8 images: 97 train in shards of 10, 13 validation, 23 test."""
    root = tmp_path_factory.mktemp("data")
    source = write_images(root / "images", 133)
    output = root / "tiny"
    prepare(PrepareRun([str(source)], str(output), validation="13", test="23", shard_size=10, num_workers=0))
    return output


@pytest.fixture
def pet_pictures() -> dict[str, np.ndarray]:
    """Small pictures of cats and dogs, by the name of their file."""
    return {f"{'cat' if seed % 3 else 'dog'}/{seed:02d}.png": picture(seed) for seed in range(20)}


@pytest.fixture
def pets(tmp_path: Path, pet_pictures: dict[str, np.ndarray]) -> PrepareRun:
    """The options that make a data set of a folder of these pictures."""
    source = make_folder(tmp_path / "source", pet_pictures)
    return PrepareRun(source=[source], output=str(tmp_path / "data" / "pets"), shard_size=6, num_workers=0)


def read_split(directory, split):
    """Key -> (pixels, class index or None) by way of webdataset; reads every shard."""
    samples = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset 1.0 leaves its files to the garbage collector
        for shard in load_dataset(directory).splits[split].shards:
            for sample in webdataset.WebDataset(str(Path(directory) / shard.path), shardshuffle=False):
                assert sample["__key__"] not in samples
                label = int(sample["cls"]) if "cls" in sample else None
                samples[sample["__key__"]] = np.asarray(Image.open(io.BytesIO(sample["png"]))), label
        gc.collect()
    return samples


def tiny_config(**changes) -> ModelConfig:
    """A Glow that runs in milliseconds."""
    values = {"image_shape": (3, 8, 8), "num_bits": 8, "num_levels": 2, "num_steps_per_level": 2, "hidden_channels": 8}
    return ModelConfig(**(values | changes))


def random_inputs(config: ModelConfig, count: int = 16, dtype: torch.dtype = torch.float64, seed: int = 0):
    """Random uint8 images and noise for a model, and labels for one that takes them."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *config.image_shape), dtype=torch.uint8, generator=rng)
    noise = torch.rand(images.shape, dtype=dtype, generator=rng).clamp(1e-6, 1 - 1e-6)
    if not config.class_conditional:
        return images, noise
    return images, noise, torch.randint(0, config.num_classes, (count,), generator=rng)


def perturb(module: torch.nn.Module, size: float = 0.1, seed: int = 0) -> None:
    """Move all parameters, so that nothing is at its special initial value any more."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=rng, dtype=torch.float64).to(parameter.dtype))


def tiny_glow(dtype: torch.dtype = torch.float64, size: float = 0.03, **changes) -> Glow:
    """An initialised Glow with perturbed parameters."""
    config = tiny_config(**changes)
    torch.manual_seed(0)
    model = Glow(config).to(dtype)
    model.initialize(*random_inputs(config, 64, dtype))
    perturb(model, size)
    return model.eval()


def kept_bytes(model, inputs):
    """Bytes that a forward pass leaves for the backward pass, parameters and buffers aside, each storage once."""
    sizes = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def keep(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # the tensor itself would keep the graph that keeps it

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        log_prob = model(*inputs)
    for tape in (thing for thing in gc.get_objects() if type(thing) is Tape):
        keep(tape.input)
        keep(tape.state)
    del log_prob
    return sum(size for pointer, size in sizes.items() if pointer not in own)


def run_ranks(function: Callable[..., object], world: int, *arguments: object) -> list:
    """Run ``function(*arguments)`` in ``world`` forked gloo processes; return what each returned (JSON values)."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _rank_main, (function, world, folder, arguments), nprocs=world, start_method="fork"
        )
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(world)]


def _rank_main(rank: int, function: Callable[..., object], world: int, folder: str, arguments: tuple) -> None:
    # Children of a parent that used several threads hang otherwise.
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    AcceleratorState._reset_state(reset_partial_state=True)  # the parent may have been a process of its own
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        result = function(*arguments)
        (Path(folder) / f"{rank}.json").write_text(json.dumps(result))
    finally:
        if dist.is_initialized():  # the end of a training has done it already
            dist.destroy_process_group()


def table_rows(name: str, path: str) -> list[str]:
    """The lines of a table in a document, between ``<!-- name -->`` and ``<!-- -->``, without its head."""
    return Path(path).read_text().split(f"<!-- {name} -->\n")[1].split("<!-- -->")[0].splitlines()[2:]


def fill_table(name: str, head: list[str], rows: list[str]) -> None:
    """Write a table into the document that GLOW_TABLE names, if it names one."""
    if "GLOW_TABLE" not in os.environ:
        return
    path = Path(os.environ["GLOW_TABLE"])
    before, after = path.read_text().split(f"<!-- {name} -->\n")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows]
    path.write_text(f"{before}<!-- {name} -->\n" + "\n".join(lines) + "\n<!-- -->" + after.split("<!-- -->", 1)[1])
