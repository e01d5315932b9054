"""Score anomalies: ``python -m pipelines.score --checkpoint runs/cifar10 --data data/cifar10 --outliers photos/``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from glow.cli import parse_config, run_stage
from glow.config import ScoreRun, options_suffix
from glow.data.prepare.opening import Place, open_images
from glow.evaluation.anomaly import CODES, shortest_codes
from glow.evaluation.anomaly_report import ScoredSet, summary_text, write_scores
from glow.evaluation.anomaly_sets import ScoredPlaces
from glow.evaluation.checks import check_finite, check_shape
from glow.evaluation.facts import measurement_facts
from glow.evaluation.likelihood import Bound, Estimate, score_split
from glow.execution.precision import use_exact_float32
from glow.models.glow import Glow
from glow.parallel.sharing import Processes
from glow.training.checkpoints.manager import find_checkpoint, run_directory
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import checkpoint_facts, read_config

# Options that change the results.
RESULTS = ("weights", "dtype", "outliers", "reference", "num_images", "size", "color", "seed")


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Score every image of the data and of the outliers once, write the scores; return their directory.

    Returns None on all processes but the main one.
    """
    config = parse_config(ScoreRun, argv, "score")
    checkpoint = find_checkpoint(config.checkpoint, config.which, config.weights)
    model = load_model(checkpoint, weights=config.weights, dtype=config.dtype)
    data = Place.of(config.data, config.split, "test") if config.split else Place.parse(config.data, "test")
    trained_on = read_config(checkpoint).data
    held_out = trained_on.validation or trained_on.stream or trained_on.path
    places = ScoredPlaces.find(data, config.outliers, config.reference, held_out)
    if (config.size or config.color != "keep") and all(place.split for place in places.all):
        raise ValueError("size, color: leave them out; all these images are prepared already")
    bound = Bound("elbo", 1, config.seed, labels="unknown")
    with contextlib.ExitStack() as stack:
        readers = {
            place: stack.enter_context(open_images(place, config.size, config.color, trained_on.size))
            for place in places.all
        }
        for place, reader in readers.items():
            check_shape(model, reader.shape, place.location, "" if place.split else resizing(model))
        processes = Processes()
        use_exact_float32()
        model.to(processes.device)
        counts = {place: min(len(reader), config.num_images or len(reader)) for place, reader in readers.items()}
        likelihoods, codes = {}, {}
        for place, reader in readers.items():
            scores = score_split(model, reader, config.batch_size, bound, processes.share, counts[place])
            likelihoods[place] = processes.gather(scores, "scoring", counts[place])
        for place in places.scored:
            numbers = processes.share.slots(counts[place])
            coded = shortest_codes(readers[place], numbers, model.config.num_bits)
            codes[place] = processes.gather(coded, "coding", counts[place])
        if not processes.is_main:
            return None
        for place, reader in readers.items():
            check_finite(likelihoods[place], place.location)
            # scores.json names the checksum of the data. It is not checked when only the first images were scored,
            # because that would read all of them.
            if counts[place] == len(reader):
                reader.verify()
    described = places.describe(readers, counts)
    typical = Estimate.of([image.bits_per_dim for image in likelihoods[places.reference]])
    sets = [ScoredSet.of(described[place], likelihoods[place], codes[place], typical.mean) for place in places.scored]
    facts = measurement_facts(model, bound, checkpoint_facts(checkpoint, config.weights), config.weights)
    facts |= {"codes": CODES, "reference": {**described[places.reference], "bits_per_dim": asdict(typical)}}
    name = f"step-{facts['checkpoint']['step']:08d}-{data.split or data.name}{options_suffix(config, RESULTS)}"
    output = Path(config.output or run_directory(checkpoint) / "scores" / name)
    print(summary_text(write_scores(output, sets[0], sets[1:], facts)))
    print(output)
    return output


def resizing(model: Glow) -> str:
    """Return the options that bring images to the shape of the model, for an error."""
    channels, height, width = model.image_shape
    return f"; give --size '[{height}, {width}]' --color {'grey' if channels == 1 else 'rgb'}"


if __name__ == "__main__":
    run_stage(main)
