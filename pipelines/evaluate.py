"""Measure bits/dim: ``python -m pipelines.evaluate --checkpoint runs/digits --data data/digits --split test``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from glow.cli import parse_config, run_stage
from glow.config import EvaluateRun
from glow.data.read.batch import Batch, Share
from glow.data.read.loader import eval_batches
from glow.data.read.reader import SplitReader
from glow.evaluation.baselines import MAX_GAUSSIAN_DIMS, GaussianBaseline, HistogramBaseline
from glow.evaluation.likelihood import Bound, ImageScore, round_trip_error, score_split
from glow.evaluation.report import Baseline, Evaluation, extreme_scores, write_report
from glow.execution.precision import use_exact_float32
from glow.models.glow import Glow
from glow.sampling.groups import group_size
from glow.training.checkpoints.manager import find_checkpoint, run_directory
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import read_state
from glow.training.metrics import read_metrics


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Score every image of the split once, compare with the baselines, write the report; return its directory.

    Returns None on all processes but the main one.
    """
    config = parse_config(EvaluateRun, argv, "evaluate")
    checkpoint = find_checkpoint(config.checkpoint, config.which)
    model = load_model(checkpoint, weights=config.weights)
    reader = SplitReader(config.data, config.split)
    if reader.dataset.shape != model.image_shape:
        raise ValueError(
            f"{config.data}: images of shape {list(reader.dataset.shape)}, but the model of {checkpoint} is for "
            f"{list(model.image_shape)}"
        )
    if model.num_classes and len(reader.dataset.classes or ()) > model.num_classes:
        raise ValueError(
            f"{config.data}: {len(reader.dataset.classes or ())} classes, but the model of {checkpoint} has "
            f"{model.num_classes}"
        )
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    use_exact_float32()
    model.to(accelerator.device)
    share = Share(accelerator.process_index, accelerator.num_processes)
    bound = Bound(config.bound, config.num_noise_samples, config.seed, config.classes)
    scored = score_split(model, reader, config.batch_size, bound, share)
    total = len(share.slots(len(reader)))
    disable = None if accelerator.is_main_process else True
    scores: list[ImageScore] = gather_object(list(tqdm(scored, "scoring", total, unit="image", disable=disable)))
    if not accelerator.is_main_process:
        return None
    # The report vouches for the bytes that were measured.
    reader.verify()
    summary, output = report(config, checkpoint, model, reader, scores)
    if not summary["valid"]:
        raise ValueError(f"{output}: invalid: {len(summary['invalid_keys'])} images have no finite likelihood")
    error = summary["standard_error"]
    uncertainty = "" if error is None else f" ± {error:.4f}"
    print(f"{summary['bits_per_dim']:.4f}{uncertainty} bits/dim on {len(scores)} images")
    print(output / "report.html")
    return output


def report(
    config: EvaluateRun, checkpoint: Path, model: Glow, reader: SplitReader, scores: list[ImageScore]
) -> tuple[dict, Path]:
    """Gather all that the report tells and write it; return bpd.json and the directory."""
    state = read_state(checkpoint)
    run = run_directory(checkpoint)
    weights = "ema" if config.weights == "ema" else "model"
    sample = next(eval_batches(reader, group_size(model.image_shape), config.seed))
    error = round_trip_error(model, sample)
    facts = {
        "num_dims": model.num_dims,
        "num_bits": model.config.num_bits,
        "class_conditional": model.config.class_conditional,
        "dequantization": model.config.dequantization,
        "bound": config.bound,
        "num_noise_samples": config.num_noise_samples,
        "seed": config.seed,
        "dataset": {
            "name": reader.dataset.name,
            "split": config.split,
            "num_images": reader.split.num_images,
            "sha256": reader.split.sha256,
        },
        "checkpoint": {
            "path": str(checkpoint),
            "step": state["step"],
            "sha256": state["sha256"][f"{weights}.safetensors"],
        },
        "weights": config.weights,
        "dtype": "float32",
        "invertibility": {"max_abs_error": error if math.isfinite(error) else None, "num_images": len(sample)},
    }
    output = Path(config.output or run / "report" / f"step-{state['step']:08d}-{config.split}")
    evaluation = Evaluation(
        scores,
        facts,
        baselines(config, reader, model.config.num_bits) if config.baselines else [],
        extremes(reader, scores),
        sample_grids(run / "samples" / f"step-{state['step']:08d}", config.weights),
        [line for line in read_metrics(run) if line["step"] <= state["step"]],
    )
    return write_report(output, evaluation), output


def sample_grids(directory: Path, weights: str) -> dict[str, Path]:
    """Return the grids that the sample stage wrote of the same weights, by temperature."""
    path = directory / "samples.json"
    if not path.is_file():
        return {}
    described = json.loads(path.read_text())
    names = [f"{temperature:.2f}" for temperature in described["temperatures"]]
    of_class = "" if described["label"] is None else f", class {described['label']}"
    grids = {f"temperature {name}{of_class}": directory / f"grid-t{name}.png" for name in names}
    return {caption: grid for caption, grid in grids.items() if described["weights"] == weights and grid.is_file()}


def baselines(config: EvaluateRun, reader: SplitReader, num_bits: int) -> list[Baseline]:
    """Fit the baselines to the train split and measure them on the images and noise of the evaluation (draw 0)."""
    train = SplitReader(config.data, "train")
    train.verify()
    num_dims = int(np.prod(reader.dataset.shape))

    def batches(split: SplitReader, title: str) -> Iterable[Batch]:
        bar = tqdm(eval_batches(split, 256, config.seed), title, -(-len(split) // 256), unit="batch", disable=None)
        return (batch for batch in bar)

    histogram = HistogramBaseline(batches(train, "histogram"), num_bits, num_dims)
    scores = [histogram.bits_per_dim(batch) for batch in batches(reader, "histogram")]
    fitted = [Baseline("histogram of each pixel", np.concatenate(scores).tolist())]
    if num_dims > MAX_GAUSSIAN_DIMS:
        return [Baseline("Gaussian", None, f"{num_dims} dimensions, more than {MAX_GAUSSIAN_DIMS}"), *fitted]
    if len(train) <= num_dims:
        return [Baseline("Gaussian", None, f"only {len(train)} training images for {num_dims} dimensions"), *fitted]
    gaussian = GaussianBaseline(batches(train, "Gaussian"), num_bits)
    scores = [gaussian.bits_per_dim(batch) for batch in batches(reader, "Gaussian")]
    return [Baseline("Gaussian", np.concatenate(scores).tolist()), *fitted]


def extremes(reader: SplitReader, scores: list[ImageScore]) -> dict[str, np.ndarray]:
    """Return the pictures of the most and least likely images, by key."""
    numbers = {score.key: number for number, score in enumerate(scores)}
    most, least = extreme_scores(scores)
    pictures = {}
    for number in {numbers[score.key] for score in [*most, *least]}:
        sample = reader.read([number])[number]
        image = reader.decode(sample)
        pictures[sample.key] = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    return pictures


if __name__ == "__main__":
    run_stage(main)
