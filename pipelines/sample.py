"""Draw images: ``python -m pipelines.sample --checkpoint runs/digits --temperatures '[0, 0.7, 1]'``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glow.cli import parse_config, run_stage
from glow.config import SampleRun, options_suffix
from glow.console import Progress
from glow.data.vectors.points import VectorData
from glow.evaluation.figures import png
from glow.evaluation.vectors import compare_with_data, plot_comparison
from glow.execution.precision import use_exact_float32
from glow.files.writing import write_together
from glow.sampling.files import DESCRIPTION, SingleImages, npy, remove_grids, write_description, write_grid
from glow.sampling.images import Draw, number_of_class, sample_images, sample_vectors
from glow.training.checkpoints.manager import find_checkpoint, run_directory
from glow.training.checkpoints.models import load_flow, load_model
from glow.training.checkpoints.reading import checkpoint_facts, read_config, read_state

OF_IMAGES = ("temperatures", "num_images", "first_index", "batch_size", "label", "save_images", "save_grids", "merge")
RESULTS = ("weights", "seed", "label")  # options that have folders of their own


def main(argv: Sequence[str] | None = None) -> Path:
    """Draw images, or vectors of a flow of vectors, and write them; return their directory."""
    config = parse_config(SampleRun, argv, "sample")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("sample runs as one process; to share the work, start several with their own --first_index")
    checkpoint = find_checkpoint(config.checkpoint, config.which, config.weights)
    step = read_state(checkpoint).step
    name = f"step-{step:08d}{options_suffix(config, RESULTS)}"
    output = Path(config.output or run_directory(checkpoint) / "samples" / name)
    origin = {"checkpoint": {"path": str(checkpoint), "step": step}, "weights": config.weights, "seed": config.seed}
    write = write_vectors if read_config(checkpoint).is_of_vectors else write_images
    write(config, checkpoint, output, origin)
    print(output)
    return output


def write_images(config: SampleRun, checkpoint: Path, output: Path, origin: dict[str, Any]) -> None:
    """Write one grid for each temperature, samples.json, and on request the single images."""
    num_classes = read_config(checkpoint).model.num_classes or 0
    names = read_state(checkpoint).classes
    draw = Draw(config.seed, number_of_class(config.label, names))
    draw.check(num_classes)
    indices = range(config.first_index, config.first_index + config.num_images)
    single = SingleImages(output, indices, draw, checkpoint_facts(checkpoint, config.weights)["sha256"])
    if config.merge:
        single.check(config.temperatures)
    output.mkdir(parents=True, exist_ok=True)
    if config.save_grids:
        remove_grids(output)
    drawn = single.read(config.temperatures) if config.merge else draw_images(config, checkpoint, indices, draw)
    for temperature, images in drawn:
        if config.save_images and not config.merge:
            single.write(images, temperature)
        if config.save_grids:
            write_grid(output, images, temperature, draw, num_classes, names)
    if config.save_grids:
        options = {name: getattr(config, name) for name in ("temperatures", "first_index", "num_images")}
        write_description(output, {**origin, "label": draw.label, **options, "dtype": "float32"})


def draw_images(config: SampleRun, checkpoint: Path, indices: range, draw: Draw) -> Iterator[tuple[float, Tensor]]:
    """Yield each temperature and its uint8 images ``[n, C, H, W]``."""
    use_exact_float32()
    model = load_model(checkpoint, weights=config.weights)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with Progress(len(indices) * len(config.temperatures), "image") as progress:
        for temperature in config.temperatures:
            batches = []
            for batch in sample_images(model, indices, temperature, draw, config.batch_size):
                batches.append(batch)
                progress.update(len(batch))
            yield temperature, torch.cat(batches)


def write_vectors(config: SampleRun, checkpoint: Path, output: Path, origin: dict[str, Any]) -> None:
    """Write samples.npy and samples.json; of a flow of data also the KL divergence and pictures.

    Raises:
        ValueError: for options of images.
    """
    for name in OF_IMAGES:
        given, default = getattr(config, name), getattr(SampleRun(config.checkpoint), name)
        if given != default:
            raise ValueError(f"{name}: {given}, but {checkpoint} is a flow of vectors; leave this option out")
    run, flow = read_config(checkpoint), load_flow(checkpoint, weights=config.weights)
    samples = sample_vectors(flow, config.num_points, config.seed)
    description = {**origin, "num_points": config.num_points}
    contents = {output / "samples.npy": npy(samples)}
    if run.target.source is None:
        data = VectorData(run.vectors)
        comparison = compare_with_data(flow, data, config.num_kl_points, config.seed)
        print(comparison)
        description |= comparison.describe()
        contents |= {output / name: png(figure) for name, figure in plot_comparison(flow, data, samples).items()}
    write_together({**contents, output / DESCRIPTION: json.dumps(description, indent=1, allow_nan=False) + "\n"})


if __name__ == "__main__":
    run_stage(main)
