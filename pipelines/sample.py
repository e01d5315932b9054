"""Draw images: ``python -m pipelines.sample --checkpoint runs/digits --temperatures '[0, 0.7, 1]'``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from glow.cli import parse_config, run_stage
from glow.config import SampleRun
from glow.precision import use_exact_float32
from glow.sampling import image_grid, sample_images
from glow.training.checkpoint import find_checkpoint, load_model, read_state, run_directory


def main(argv: Sequence[str] | None = None) -> Path:
    """Write one grid for each temperature, samples.json, and the single images when asked; return their directory."""
    config = parse_config(SampleRun, argv, "sample")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("sample runs as one process; to share the work, start several with their own --first_index")
    use_exact_float32()
    checkpoint = find_checkpoint(config.checkpoint, config.which)
    model = load_model(checkpoint, weights=config.weights)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    step = read_state(checkpoint)["step"]
    output = Path(config.output or run_directory(checkpoint) / "samples" / f"step-{step:08d}")
    output.mkdir(parents=True, exist_ok=True)
    # samples.json vouches for the grids: it goes first and comes last.
    for earlier in [output / "samples.json", *output.glob("grid-t*.png")]:
        earlier.unlink(missing_ok=True)

    indices = range(config.first_index, config.first_index + config.num_images)
    bar = tqdm(total=config.num_images * len(config.temperatures), unit="image", disable=None)
    for temperature in config.temperatures:
        batches = []
        for batch in sample_images(model, indices, temperature, config.seed, config.batch_size):
            batches.append(batch)
            bar.update(len(batch))
        images = torch.cat(batches)
        Image.fromarray(image_grid(images)).save(output / f"grid-t{temperature:.2f}.png")
        if config.save_images:
            folder = output / f"images-t{temperature:.2f}"
            folder.mkdir(exist_ok=True)
            for index, image in zip(indices, images, strict=True):
                pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
                Image.fromarray(pixels.numpy()).save(folder / f"{index:08d}.png")
    bar.close()
    description = {
        "checkpoint": {"path": str(checkpoint), "step": step},
        "weights": config.weights,
        "seed": config.seed,
        "temperatures": config.temperatures,
        "first_index": config.first_index,
        "num_images": config.num_images,
        "dtype": "float32",
    }
    (output / "samples.json").write_text(json.dumps(description, indent=1) + "\n")
    print(output)
    return output


if __name__ == "__main__":
    run_stage(main)
