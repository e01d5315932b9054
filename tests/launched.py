"""The train stage with a record of the images of each step and a fault on request: ``-m launched OPTIONS``.

The environment variable FAULT is ``STEP RANK WHAT``: before that step, that process does one of ``FAULTS``.
"""

import json
import os
import signal
import time
from pathlib import Path

from glow.cli import run_stage
from glow.training.trainer import Trainer
from pipelines import train

FAULTS = {
    "kill": lambda run: os.kill(os.getpid(), signal.SIGKILL),
    "stop-file": lambda run: (run / "stop").touch(),
    "kill-launcher": lambda run: os.kill(os.getppid(), signal.SIGKILL),
    "terminate-launcher": lambda run: os.kill(os.getppid(), signal.SIGTERM),
}


def observe(train_step):
    """Wrap ``Trainer.train_step``."""
    fault_step, fault_rank, what = os.environ.get("FAULT", "0 0 none").split()

    def step(self, batch, stop):
        run, rank = Path(self.run.output), self.accelerator.process_index
        with (run / f"keys-{rank}.jsonl").open("a") as file:
            file.write(json.dumps([self.step, self.accelerator.num_processes, batch.keys]) + "\n")
        if (self.step + 1, rank) == (int(fault_step), int(fault_rank)):
            FAULTS[what](run)
            while stop.reason() is None:  # the launcher hands the signal down
                time.sleep(0.01)
        return train_step(self, batch, stop)

    return step


def read_keys(run):
    """Return the sample keys of each step; what was done again after a fault counts once."""
    ranks = [
        {step: (count, keys) for step, count, keys in map(json.loads, path.read_text().splitlines())}
        for path in sorted(run.glob("keys-*.jsonl"))
    ]
    return [[key for rank in ranks[:count] for key in rank[step][1]] for step, (count, _) in sorted(ranks[0].items())]


if __name__ == "__main__":
    Trainer.train_step = observe(Trainer.train_step)
    run_stage(train.main)
