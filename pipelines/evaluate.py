"""Measure bits/dim: ``python -m pipelines.evaluate --checkpoint runs/digits --data data/digits --split test``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import glow
from glow.cli import parse_config, run_stage
from glow.config import EvaluateRun, options_suffix, path_part
from glow.data.read.loader import eval_batches
from glow.data.read.reader import SplitReader
from glow.evaluation.baselines import fit_baselines
from glow.evaluation.checks import check_classes, check_shape
from glow.evaluation.facts import dataset_facts, invertibility_facts, measurement_facts, model_facts
from glow.evaluation.likelihood import Bound, score_split
from glow.evaluation.report import Evaluation, extreme_images, headline, real_grid, write_report
from glow.execution.precision import use_exact_float32
from glow.parallel.sharing import Processes
from glow.sampling.files import find_grids
from glow.sampling.groups import group_size
from glow.training.checkpoints.manager import find_checkpoint, run_directory
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import checkpoint_facts, read_config, read_state
from glow.training.metrics import commit, read_metrics

# Options that change the results.
RESULTS = ("weights", "dtype", "bound", "num_noise_samples", "seed", "num_images")


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Measure every image of a split once, compare with baselines, write the report; return its directory.

    Returns None on all processes but the main one.
    """
    config = parse_config(EvaluateRun, argv, "evaluate")
    checkpoint = find_checkpoint(config.checkpoint, config.which, config.weights)
    model = load_model(checkpoint, weights=config.weights, dtype=config.dtype)
    reader = SplitReader(config.data, config.split, size=read_config(checkpoint).data.size)
    check_shape(model, reader.shape, config.data)
    check_classes(model, read_state(checkpoint).classes, reader.dataset, config.data)
    processes = Processes()
    use_exact_float32()
    model.to(processes.device)
    bound = Bound(config.bound, config.num_noise_samples, config.seed, config.classes)
    count = min(len(reader), config.num_images or len(reader))
    scored = score_split(model, reader, config.batch_size, bound, processes.share, count)
    scores = processes.gather(scored, "scoring", count)
    if not processes.is_main:
        return None
    if count == len(reader):  # the report names the checksum of the data, so the measured bytes must have it
        reader.verify()
    facts = measurement_facts(model, bound, checkpoint_facts(checkpoint, config.weights), config.weights)
    run, step = run_directory(checkpoint), facts["checkpoint"]["step"]
    trained_on, train = read_state(checkpoint).data_sha256, reader.dataset.splits.get("train")
    is_other = trained_on is not None and (train is None or train.sha256 != trained_on)
    name = f"{config.split}{f'-{path_part(reader.dataset.name)}' * is_other}{options_suffix(config, RESULTS)}"
    output = Path(config.output or run / "report" / f"step-{step:08d}-{name}")
    batch = next(eval_batches(reader, group_size(model.image_shape), config.seed))
    facts |= {
        "dequantization": model.config.dequantization,
        "dataset": dataset_facts(reader, config.split),
        "invertibility": invertibility_facts(model, batch),
        "model": model_facts(model),
        "software": {"version": glow.__version__, "commit": commit()},
    }
    drawn = f"step-{step:08d}{options_suffix(config, ('weights', 'dtype'))}"
    grids = find_grids(run / "samples" / drawn, config.weights)
    evaluation = Evaluation(
        scores,
        facts,
        fit_baselines(reader, model.config.num_bits, config.seed, count) if config.baselines else [],
        extreme_images(reader, scores),
        {f"real images: the first {len(batch)} of this split": real_grid(batch.images), **grids},
        [line for line in read_metrics(run) if line["step"] <= step],
    )
    summary = write_report(output, evaluation)
    if not summary["valid"]:
        raise ValueError(f"{output}: invalid: {len(summary['invalid_keys'])} images have no finite likelihood")
    print(headline(summary))
    print(output / "report.html")
    return output


if __name__ == "__main__":
    run_stage(main)
