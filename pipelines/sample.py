"""Draw images: ``python -m pipelines.sample --checkpoint runs/digits --temperatures '[0, 0.7, 1]'``."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm import tqdm

from glow.cli import parse_config, run_stage
from glow.config import SampleRun, TrainRun
from glow.data.vectors.points import VectorData
from glow.evaluation.vectors import Estimate, kl_divergence, log_prob, plot_density, plot_points
from glow.execution.precision import use_exact_float32
from glow.models.flow import Flow
from glow.randomness import generator
from glow.sampling.images import Draw, image_grid, sample_images, sample_vectors
from glow.training.checkpoints.manager import find_checkpoint, run_directory
from glow.training.checkpoints.models import load_flow, load_model
from glow.training.checkpoints.reading import read_config, read_state

# Options that mean nothing for vectors.
IMAGES_ALONE = {
    *("temperatures", "num_images", "first_index", "batch_size"),
    *("label", "save_images", "save_grids", "merge"),
}


def main(argv: Sequence[str] | None = None) -> Path:
    """Write one grid for each temperature, samples.json, and the single images when asked; return their directory.

    Of a flow of vectors: write what ``write_vectors`` says.
    """
    config = parse_config(SampleRun, argv, "sample")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("sample runs as one process; to share the work, start several with their own --first_index")
    checkpoint = find_checkpoint(config.checkpoint, config.which)
    step = read_state(checkpoint)["step"]
    output = Path(config.output or run_directory(checkpoint) / "samples" / f"step-{step:08d}")
    run = read_config(checkpoint)
    if run.is_of_vectors:
        write_vectors(config, run, checkpoint, output)
        print(output)
        return output
    model = run.model
    Draw(config.seed, config.label).check(model.num_classes or 0)
    if config.merge:
        check_images(config, checkpoint, output)
    output.mkdir(parents=True, exist_ok=True)
    if config.save_grids:
        # samples.json vouches for the grids: it goes first and comes last.
        for earlier in [output / "samples.json", *output.glob("grid-t*.png")]:
            earlier.unlink(missing_ok=True)
    rows = model.num_classes or 0 if config.label is None else 0
    for temperature, images in merge(config, output) if config.merge else draw(config, checkpoint):
        if config.save_images and not config.merge:
            write_images(images, temperature, config, checkpoint, output)
        if config.save_grids:
            Image.fromarray(image_grid(images, rows)).save(output / f"grid-t{temperature:.2f}.png")
    if config.save_grids:
        description = {
            "checkpoint": {"path": str(checkpoint), "step": step},
            "weights": config.weights,
            "seed": config.seed,
            "label": config.label,
            "temperatures": config.temperatures,
            "first_index": config.first_index,
            "num_images": config.num_images,
            "dtype": "float32",
        }
        (output / "samples.json").write_text(json.dumps(description, indent=1, allow_nan=False) + "\n")
    print(output)
    return output


def write_vectors(config: SampleRun, run: TrainRun, checkpoint: Path, output: Path) -> None:
    """Write samples.npy and samples.json; of a flow of data, pictures of samples and density, and the KL divergence
    too.

    Raises:
        ValueError: for options that belong to images.
    """
    for field in dataclasses.fields(SampleRun):
        given, plain = getattr(config, field.name), getattr(SampleRun(config.checkpoint), field.name)
        if field.name in IMAGES_ALONE and given != plain:
            raise ValueError(f"{field.name}: {given}, but {checkpoint} is a flow of vectors: it belongs to images")
    flow = load_flow(checkpoint, weights=config.weights)
    samples = sample_vectors(flow, config.num_points, config.seed)
    description: dict[str, Any] = {
        "checkpoint": {"path": str(checkpoint), "step": read_state(checkpoint)["step"]},
        "weights": config.weights,
        "seed": config.seed,
        "num_points": config.num_points,
    }
    output.mkdir(parents=True, exist_ok=True)
    np.save(output / "samples.npy", samples)
    if run.target.source is None:
        description |= compare_with_data(flow, samples, VectorData(run.vectors), config, output)
    (output / "samples.json").write_text(json.dumps(description, indent=1, allow_nan=False) + "\n")


def compare_with_data(
    flow: Flow, samples: np.ndarray, data: VectorData, config: SampleRun, output: Path
) -> dict[str, Any]:
    """Draw the pictures, and return what samples.json tells of held-out vectors and of the KL divergence."""
    held_out = Estimate.of(log_prob(flow, data.held_out))
    described = {"held_out_log_prob": dataclasses.asdict(held_out)}
    print(f"log p(x) of held-out vectors: {held_out}")
    if data.density is not None:
        points = data.density.sample(generator(data.config.seed, "kl", config.seed), config.num_kl_points)
        kl = kl_divergence(flow, data.density, points)
        described["kl"] = dataclasses.asdict(kl)
        print(f"KL(data || flow): {kl}")
    if flow.num_dims > 1:
        plot_points(data.points, samples).savefig(output / "samples.png", dpi=120)
    if flow.num_dims == 2:
        plot_density(flow, data.points, data.density).savefig(output / "density.png", dpi=120)
    return described


def draw(config: SampleRun, checkpoint: Path) -> Iterator[tuple[float, Tensor]]:
    """Yield each temperature and its uint8 images ``[n, C, H, W]``."""
    use_exact_float32()
    model = load_model(checkpoint, weights=config.weights)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with tqdm(total=config.num_images * len(config.temperatures), unit="image", disable=None) as bar:
        for temperature in config.temperatures:
            batches = []
            drawn = Draw(config.seed, config.label)
            for batch in sample_images(model, image_indices(config), temperature, drawn, config.batch_size):
                batches.append(batch)
                bar.update(len(batch))
            yield temperature, torch.cat(batches)


def write_images(images: Tensor, temperature: float, config: SampleRun, checkpoint: Path, output: Path) -> None:
    """Write single PNGs, each with what it was drawn from."""
    folder = images_folder(output, temperature)
    folder.mkdir(exist_ok=True)
    origin = PngInfo()
    origin.add_text("glow", describe_origin(config, checkpoint, temperature))
    for index, image in zip(image_indices(config), images, strict=True):
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folder / f"{index:08d}.png", pnginfo=origin)


def check_images(config: SampleRun, checkpoint: Path, output: Path) -> None:
    """Check that other processes wrote all images there are to merge.

    Raises:
        ValueError: when an image is not there, or is not of this checkpoint, weights, seed, class and temperature.
    """
    folders = {temperature: images_folder(output, temperature) for temperature in config.temperatures}
    paths = {t: [folder / f"{index:08d}.png" for index in image_indices(config)] for t, folder in folders.items()}
    missing = [path for group in paths.values() for path in group if not path.is_file()]
    if missing:
        total = sum(map(len, paths.values()))
        raise ValueError(f"{missing[0]}: not there, nor {len(missing) - 1} others of {total} images; draw them first")
    for temperature, group in paths.items():
        origin = describe_origin(config, checkpoint, temperature)
        for path in group:
            with Image.open(path) as image:
                if image.info.get("glow") != origin:
                    raise ValueError(f"{path}: drawn from {image.info.get('glow')}, not from {origin}")


def merge(config: SampleRun, output: Path) -> Iterator[tuple[float, Tensor]]:
    """Yield each temperature and its images, read from the PNGs that other processes wrote."""
    for temperature in config.temperatures:
        images = []
        for index in image_indices(config):
            with Image.open(images_folder(output, temperature) / f"{index:08d}.png") as image:
                pixels = np.array(image)
            images.append(torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)))
        yield temperature, torch.stack(images)


def image_indices(config: SampleRun) -> range:
    """Return the indices that were asked for."""
    return range(config.first_index, config.first_index + config.num_images)


def images_folder(output: Path, temperature: float) -> Path:
    """Return where the single images of a temperature lie."""
    return output / f"images-t{temperature:.2f}"


def describe_origin(config: SampleRun, checkpoint: Path, temperature: float) -> str:
    """Return what all images of one temperature have in common, whichever process draws them."""
    weights = "ema" if config.weights == "ema" else "model"
    digest = read_state(checkpoint)["sha256"][f"{weights}.safetensors"]
    origin = {"checkpoint": digest, "seed": config.seed, "label": config.label, "temperature": temperature}
    return json.dumps(origin)


if __name__ == "__main__":
    run_stage(main)
