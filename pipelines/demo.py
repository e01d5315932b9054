"""All four stages on scikit-learn's handwritten digits: ``python -m pipelines.demo``, or ``make demo``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glow.cli import parse_config, run_stage
from glow.config import DemoRun, TrainRun
from pipelines import evaluate, prepare, sample, train


def main(argv: Sequence[str] | None = None) -> None:
    """Run prepare, train, sample and evaluate, and say where the pictures are."""
    demo = parse_config(DemoRun, argv, "demo")
    training = ["--config", demo.training, "--data.path", demo.data, "--output", demo.output]
    parse_config(TrainRun, training, "train")  # a mistake shows before the work
    # More gain nothing with a model this small, and lose much where other programs compute too. So the numbers are the
    # same on every machine of a kind.
    torch.set_num_threads(1)
    print("1/4 prepare")
    prepare.main(["--source", "digits", "--output", demo.data, "--validation", "180", "--test", "360"])
    print("2/4 train")
    train.main(training)
    print("3/4 sample")
    samples = sample.main(["--checkpoint", demo.output])
    print("4/4 evaluate")
    report = evaluate.main(["--checkpoint", demo.output, "--data", demo.data, "--split", "test"])
    assert report is not None
    print(f"\nsample grid: {samples / 'grid-t0.70.png'}\nreport: {report / 'report.html'}")
    print(f"the model with sliders, in a browser: make explore, or glow explore --checkpoint {demo.output}")


if __name__ == "__main__":
    run_stage(main)
