"""Train policies: ``python -m pipelines.policy --config configs/policy.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glow.cli import parse_config, run_stage
from glow.config import PolicyRun
from glow.locking import locked
from glow.policy.report import summary_text, write_report
from glow.policy.training import begin, train_all
from glow.training.checkpoints.manager import check_output


def main(argv: Sequence[str] | None = None) -> Path:
    """Train every policy on every task with every seed, measure and draw them; return the run directory."""
    run = parse_config(PolicyRun, argv, "policy")
    output = Path(run.output)
    check_output(output)
    with locked(output / ".lock", run.output):
        begin(run, output)
        if (output / "policy.json").exists():
            print(f"{output} is complete already: nothing to do")
        else:
            print(summary_text(write_report(output, run.seeds[0], list(train_all(run, output)))))
    print(output)
    return output


if __name__ == "__main__":
    run_stage(main)
