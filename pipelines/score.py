"""Score anomalies: ``python -m pipelines.score --checkpoint runs/cifar10 --data data/cifar10 --outliers photos/``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from glow.cli import parse_config, run_stage
from glow.config import ScoreRun
from glow.data.prepare.opening import Place, open_images
from glow.data.read.batch import Share
from glow.data.read.files import PIPE
from glow.data.read.reader import SplitReader
from glow.evaluation.anomaly import CODES, AnomalyScore, Code, shortest_codes
from glow.evaluation.anomaly_report import ScoredSet, write_scores
from glow.evaluation.likelihood import Bound, Estimate, ImageScore, score_split
from glow.execution.precision import use_exact_float32
from glow.models.glow import Glow
from glow.training.checkpoints.manager import find_checkpoint, run_directory
from glow.training.checkpoints.models import load_model
from glow.training.checkpoints.reading import read_config, read_state


@dataclass(frozen=True)
class Scorer:
    """What all sets of images are scored with."""

    config: ScoreRun
    model: Glow
    accelerator: Accelerator

    def likelihoods(self, reader: SplitReader) -> list[ImageScore]:
        """Return the likelihood of each image that is to be scored, in order; collective."""
        bound = Bound("elbo", 1, self.config.seed, labels="unknown")
        share, count = self._share, self.count(reader)
        scores = score_split(self.model, reader, self.config.batch_size, bound, share, count)
        return gather_object(list(self._progress(scores, "scoring", reader)))

    def codes(self, reader: SplitReader) -> list[Code]:
        """Return the shortest lossless code of each image that is to be scored, in order; collective."""
        codes = shortest_codes(reader, self._share.slots(self.count(reader)), self.model.config.num_bits)
        return gather_object(list(self._progress(codes, "coding", reader)))

    def count(self, reader: SplitReader) -> int:
        """Return how many images of a set are to be scored."""
        return min(len(reader), self.config.num_images or len(reader))

    @property
    def _share(self) -> Share:
        return Share(self.accelerator.process_index, self.accelerator.num_processes)

    def _progress(self, results: Iterator[Any], title: str, reader: SplitReader) -> Iterator[Any]:
        total = len(self._share.slots(self.count(reader)))
        disable = None if self.accelerator.is_main_process else True
        return iter(tqdm(results, title, total, unit="image", disable=disable))


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Score every image of the data and of the outliers once, write the scores; return their directory.

    Returns None on all processes but the main one.
    """
    config = parse_config(ScoreRun, argv, "score")
    checkpoint = find_checkpoint(config.checkpoint, config.which)
    model = load_model(checkpoint, weights=config.weights)
    data = Place.of(config.data, config.split, "test")
    scored = [data, *(Place.parse(text, "test") for text in config.outliers)]
    if len(set(scored)) < len(scored):
        raise ValueError(f"outliers: {', '.join(config.outliers)} and the data name the same images twice")
    reference = reference_place(config, checkpoint)
    places = list(dict.fromkeys([*scored, reference]))
    if (config.size or config.color != "keep") and all(place.split for place in places):
        raise ValueError("size, color: only for images that are not prepared, and all of these are")
    with contextlib.ExitStack() as stack:
        readers = {place: stack.enter_context(open_images(place, config.size, config.color)) for place in places}
        for place, reader in readers.items():
            check_shape(place, reader, model)
        accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
        use_exact_float32()
        scorer = Scorer(config, model.to(accelerator.device), accelerator)
        likelihoods = {place: scorer.likelihoods(reader) for place, reader in readers.items()}
        codes = {place: scorer.codes(readers[place]) for place in scored}
        if not accelerator.is_main_process:
            return None
        for place, reader in readers.items():
            check_finite(place, likelihoods[place])
            # The figures vouch for the bytes that were measured; a few first images are not worth reading all.
            if scorer.count(reader) == len(reader):
                reader.verify()
    typical = Estimate.of([image.bits_per_dim for image in likelihoods[reference]])
    described = describe(readers, scored, scorer)
    sets = []
    for place in scored:
        pairs = zip(likelihoods[place], codes[place], strict=True)
        sets.append(ScoredSet(described[place], [AnomalyScore.of(*pair, typical.mean) for pair in pairs]))
    facts = checkpoint_facts(config, checkpoint, model)
    facts["reference"] = {**described[reference], "bits_per_dim": asdict(typical)}
    name = f"step-{facts['checkpoint']['step']:08d}-{data.split or data.name}"
    output = Path(config.output or run_directory(checkpoint) / "scores" / name)
    print_summary(write_scores(output, sets[0], sets[1:], facts))
    print(output)
    return output


def reference_place(config: ScoreRun, checkpoint: Path) -> Place:
    """Return where the in-distribution images lie: by default in the data set that the model was trained on.

    Raises:
        ValueError: when that is not there.
    """
    if config.reference is not None:
        return Place.parse(config.reference, "validation")
    trained_on = read_config(checkpoint).data.path
    # Commands are taken from the command line alone.
    place = None if trained_on.startswith(PIPE) else Place.of(trained_on, None, "validation")
    if place is None or place.split is None:
        raise ValueError(
            f"reference: {trained_on}, which the model was trained on, cannot be opened; name in-distribution images "
            "by --reference"
        )
    return place


def check_shape(place: Place, reader: SplitReader, model: Glow) -> None:
    """Raise a ValueError for images of another shape than those of the model."""
    if reader.dataset.shape != model.image_shape:
        channels, height, width = model.image_shape
        options = f"--size '[{height}, {width}]' --color {'grey' if channels == 1 else 'rgb'}"
        raise ValueError(
            f"{place.location}: images of shape {list(reader.dataset.shape)}, but the model is for "
            f"{list(model.image_shape)}" + ("" if place.split else f"; {options} brings them to it")
        )


def check_finite(place: Place, scores: Sequence[ImageScore]) -> None:
    """Raise a ValueError if an image has no finite likelihood."""
    invalid = [image.key for image in scores if not math.isfinite(image.bits_per_dim)]
    if invalid:
        raise ValueError(
            f"{place.location}: {len(invalid)} of {len(scores)} images have no finite likelihood, the first is "
            f"{invalid[0]}; nothing is written"
        )


def describe(
    readers: Mapping[Place, SplitReader], scored: Sequence[Place], scorer: Scorer
) -> dict[Place, dict[str, Any]]:
    """Return what scores.json tells of each set; its name is its full location where two scored ones were alike."""
    short = {
        place: place.name if place.split is None else f"{reader.dataset.name}:{place.split}"
        for place, reader in readers.items()
    }
    is_distinct = len({short[place] for place in scored}) == len(scored)
    names = short if is_distinct else {place: str(place) for place in readers}
    return {
        place: {
            "name": names[place],
            "split": place.split,
            "num_images": scorer.count(reader),
            "sha256": reader.split.sha256,
        }
        for place, reader in readers.items()
    }


def checkpoint_facts(config: ScoreRun, checkpoint: Path, model: Glow) -> dict[str, Any]:
    """Return what scores.json tells of the model, and how the likelihood and the codes were measured."""
    state = read_state(checkpoint)
    weights = "ema" if config.weights == "ema" else "model"
    digest = state["sha256"][f"{weights}.safetensors"]
    return {
        "checkpoint": {"path": str(checkpoint), "step": state["step"], "sha256": digest},
        "weights": config.weights,
        "dtype": "float32",
        "num_dims": model.num_dims,
        "num_bits": model.config.num_bits,
        "class_conditional": model.config.class_conditional,
        "bound": "elbo",
        "num_noise_samples": 1,
        "seed": config.seed,
        "codes": CODES,
    }


def print_summary(summary: dict[str, Any]) -> None:
    """Print the mean likelihood and code length of each set, and the AUROC of each score for the outliers."""
    for scored in (summary["data"], *summary["outliers"]):
        mean, length = scored["bits_per_dim"]["mean"], scored["code_bits_per_dim"]["mean"]
        print(f"{scored['name']}: {scored['num_images']} images, {mean:.4f} bits/dim, code {length:.4f} bits/dim")
        for score, area in scored.get("auroc", {}).items():
            error = area["standard_error"]
            print(f"  AUROC of {score}: {area['auroc']:.4f}" + ("" if error is None else f" ± {error:.4f}"))


if __name__ == "__main__":
    run_stage(main)
