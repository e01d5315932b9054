"""Draw images: ``python -m pipelines.sample --checkpoint runs/digits --temperatures '[0, 0.7, 1]'``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from glow.cli import parse_config, run_stage
from glow.config import SampleRun, options_suffix
from glow.data.vectors.points import VectorData
from glow.evaluation.figures import png
from glow.evaluation.vectors import compare_with_data, plot_comparison
from glow.execution.precision import use_exact_float32
from glow.files.writing import write_together
from glow.parallel.sharing import Processes
from glow.sampling import files
from glow.sampling.groups import group_size, share_of
from glow.sampling.images import Draw, check_temperatures, number_of_class, sample_temperatures, sample_vectors
from glow.training.checkpoints.manager import find_checkpoint, run_directory
from glow.training.checkpoints.models import load_flow, load_model
from glow.training.checkpoints.reading import checkpoint_facts, read_config, read_state

OF_IMAGES: tuple[str, ...] = ("temperatures", "num_images", "first_index", "batch_size", "label", "dtype")
OF_IMAGES += ("save_images", "save_grids", "merge")
RESULTS = ("weights", "dtype", "seed", "label")  # options that have folders of their own


def main(argv: Sequence[str] | None = None) -> Path:
    """Draw images, or vectors of a flow of vectors, and write them; return their directory."""
    config = parse_config(SampleRun, argv, "sample")
    checkpoint = find_checkpoint(config.checkpoint, config.which, config.weights)
    step = read_state(checkpoint).step
    name = f"step-{step:08d}{options_suffix(config, RESULTS)}"
    output = Path(config.output or run_directory(checkpoint) / "samples" / name)
    origin = {"checkpoint": {"path": str(checkpoint), "step": step}, "weights": config.weights, "seed": config.seed}
    processes = Processes()
    if not read_config(checkpoint).is_of_vectors:
        write_images(config, checkpoint, output, origin, processes)
    elif processes.is_main:
        write_vectors(config, checkpoint, output, origin)
    if processes.is_main:
        print(output)
    return output


def write_images(config: SampleRun, checkpoint: Path, output: Path, origin: dict[str, Any], world: Processes) -> None:
    """Write one grid for each temperature, samples.json, and on request the single images; processes share them."""
    run, names = read_config(checkpoint), read_state(checkpoint).classes
    num_classes = run.model.num_classes or 0
    draw = Draw(config.seed, number_of_class(config.label, names))
    draw.check(num_classes)
    check_temperatures(config.temperatures, run.model.num_levels)
    indices = range(config.first_index, config.first_index + config.num_images)
    sha256 = checkpoint_facts(checkpoint, config.weights)["sha256"]
    single = files.SingleImages(output, indices, draw, sha256, config.dtype)
    if config.merge:
        if not world.is_main:
            return
        single.check(config.temperatures)
    output.mkdir(parents=True, exist_ok=True)
    is_npz = config.save_images == "npz"
    if config.save_grids and world.is_main:
        files.remove_grids(output)
    if config.merge:
        drawn = single.read(config.temperatures)
    else:
        use_exact_float32()
        model = load_model(checkpoint, weights=config.weights, dtype=config.dtype).to(world.device)
        mine = share_of(indices, group_size(model.image_shape), world.share)
        single = dataclasses.replace(single, indices=mine)
        drawn = sample_temperatures(model, mine, config.temperatures, draw, config.batch_size, world.is_main)
    for temperature, images in drawn:
        if config.save_images and not (is_npz or config.merge):
            single.write(images, temperature)
        whole = [images] if config.merge or not (config.save_grids or is_npz) else world.collect([images])
        if is_npz and world.is_main:
            files.write_npz(output, torch.cat(whole), temperature)
        if config.save_grids and world.is_main:
            files.write_grid(output, torch.cat(whole), temperature, draw, num_classes, names)
    if config.save_grids and world.is_main:
        options = {name: getattr(config, name) for name in ("temperatures", "first_index", "num_images", "dtype")}
        files.write_description(output, {**origin, "label": draw.label, **options})


def write_vectors(config: SampleRun, checkpoint: Path, output: Path, origin: dict[str, Any]) -> None:
    """Write samples.npy and samples.json, of a flow of data also its KL divergence; refuse options of images."""
    for name in OF_IMAGES:
        given, default = getattr(config, name), getattr(SampleRun(config.checkpoint), name)
        if given != default:
            raise ValueError(f"{name}: {given}, but {checkpoint} is a flow of vectors; leave this option out")
    run, flow = read_config(checkpoint), load_flow(checkpoint, weights=config.weights)
    samples = sample_vectors(flow, config.num_points, config.seed)
    description = {**origin, "num_points": config.num_points}
    contents = {output / "samples.npy": files.npy(samples)}
    if run.target.source is None:
        data = VectorData(run.vectors)
        comparison = compare_with_data(flow, data, config.num_kl_points, config.seed)
        print(comparison)
        description |= comparison.describe()
        contents |= {output / name: png(figure) for name, figure in plot_comparison(flow, data, samples).items()}
    write_together({**contents, output / files.DESCRIPTION: json.dumps(description, indent=1, allow_nan=False) + "\n"})


if __name__ == "__main__":
    run_stage(main)
