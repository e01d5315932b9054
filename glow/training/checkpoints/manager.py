"""The checkpoints of a run: which there are, which is the best, and which to keep."""

from __future__ import annotations

import itertools
import math
import os
import re
import warnings
from pathlib import Path

from glow.files.hub import SCHEME, fetch
from glow.training.checkpoints.exported import EXPORT, WEIGHTS, is_exported
from glow.training.checkpoints.reading import CONFIG, STATE, STEP_PATTERN, read_state, verify, weights_file
from glow.training.checkpoints.writing import Snapshot, remove, write

SHIPPED = Path(__file__).parents[2] / "shipped"  # models that come with glow, by name
PARTIAL_PATTERN = re.compile(rf"{STEP_PATTERN.pattern}(\.old)?\.partial", re.ASCII)
RUN_FILES = {"checkpoints", "config.yaml", "metrics.jsonl", "stop", "stopped.json"}
LOG = re.compile(r"\.(log|out|err)$")  # what the output of a job may be written to


class CheckpointManager:
    """The checkpoints of one run: ``<run>/checkpoints/step-00001000/``."""

    def __init__(self, run: str | Path, keep_last: int = 2, keep_every: int | None = None) -> None:
        self.directory = Path(run) / "checkpoints"
        self.keep_last = keep_last
        self.keep_every = keep_every

    def save(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint, then remove old ones; return its directory."""
        target = self.directory / f"step-{snapshot.state.step:08d}"
        write(snapshot, target)
        self.prune()
        return target

    def all(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(path for path in self.directory.iterdir() if STEP_PATTERN.fullmatch(path.name))

    def latest(self) -> Path | None:
        """Return the newest checkpoint, or None."""
        return self.all()[-1] if self.all() else None

    def latest_intact(self) -> Path | None:
        """Return the newest undamaged checkpoint, or None; set damaged newer ones aside, with a warning.

        Raises:
            ValueError: when all checkpoints are damaged; they stay where they are.
        """
        damaged: list[tuple[Path, ValueError]] = []
        for path in reversed(self.all()):
            try:
                verify(path)
            except ValueError as error:
                damaged.append((path, error))
                continue
            for other, problem in damaged:
                warnings.warn(f"{problem}. Set aside as {_set_aside(other)}; trying the one before", stacklevel=2)
            return path
        if damaged:
            raise ValueError(
                f"{damaged[0][1]}, and of {len(damaged)} checkpoints none is intact; choose another output"
            )
        return None

    def best(self) -> Path | None:
        """Return the checkpoint with the lowest validation bits/dim; None if none was validated."""
        ranked, _ = self.ranked()
        return ranked[0] if ranked else None

    def best_score(self) -> float:
        """Return the lowest validation bits/dim of the checkpoints; infinity if none was validated."""
        best = self.best()
        score = read_state(best).validation_bits_per_dim if best else None
        return math.inf if score is None else score

    def ranked(self) -> tuple[list[Path], list[ValueError]]:
        """Return the validated checkpoints, the best one first, and what is wrong with those that cannot be read."""
        scored: list[tuple[float, Path]] = []
        problems: list[ValueError] = []
        for path in self.all():
            try:
                score = read_state(path).validation_bits_per_dim
                scored += [] if score is None else [(score, path)]
            except ValueError as error:
                problems.append(error)
        return [path for _, path in sorted(scored)], problems

    def prune(self) -> None:
        """Remove the remains of interrupted saves, and all checkpoints but the last, the best, each ``keep_every``.

        What cannot be removed is a warning. The next save tries it again.
        """
        try:
            remains = [path for path in self.directory.iterdir() if PARTIAL_PATTERN.fullmatch(path.name)]
            old = set(self.all()[: -self.keep_last]) - {self.best()}
        except OSError as error:
            warnings.warn(f"{self.directory}: old checkpoints cannot be removed: {error}", stacklevel=2)
            return
        for path in [*remains, *(path for path in old if self.keep_every is None or _step_of(path) % self.keep_every)]:
            try:
                # Renamed first, so that an interrupted removal leaves nothing that looks like a checkpoint.
                remove(path if path in remains else path.rename(path.with_suffix(".partial")))
            except OSError as error:
                warnings.warn(f"{path}: cannot be removed: {error}; the next save tries it again", stacklevel=2)


def check_output(run: str | Path) -> None:
    """Raise a ValueError where something else than a run stands: a training would write its files among it."""
    path = Path(run)
    if path.is_dir():
        names = {entry.name for entry in path.iterdir()}
        strangers = [name for name in sorted(names) if not (name.startswith(".") or _is_harmless(path / name))]
        if strangers and not names & RUN_FILES:
            raise ValueError(f"{run}: exists and is not a run ({strangers[0]} is in it); choose another --output")
    elif os.path.lexists(path):
        raise ValueError(f"{run}: is not a folder; choose another --output")


def _is_harmless(path: Path) -> bool:
    """Whether a run may stand beside this: the log of a job, a data set, another run."""
    if path.is_dir():
        return path.name == "lost+found" or any((path / name).exists() for name in ("dataset.json", *RUN_FILES))
    return bool(LOG.search(path.name))


def find_checkpoint(path: str | Path, which: str = "latest", weights: str = "ema") -> Path:
    """Return the directory of a checkpoint or an exported model, given itself, a run directory or an address.

    Of a run directory, checkpoints whose configuration or weights are damaged are passed over, with a warning.

    Args:
        path: ``runs/NAME``, ``runs/NAME/checkpoints/step-N``, the folder of an exported model,
            ``hf://USER/NAME[@REVISION]`` for one on the Hugging Face Hub, which is fetched into its cache, or the name
            of a model that comes with glow, where there is no such path.
        which: ``latest`` or ``best`` of a run directory.
        weights: The weights that are to be used, ``ema`` or ``raw``.

    Raises:
        ValueError: when there is none, or all are damaged.
    """
    path = _on_disk(str(path))
    if not path.is_dir():
        raise ValueError(f"{path}: no such checkpoint or run directory; give runs/NAME or runs/NAME/checkpoints/step-N")
    if STEP_PATTERN.fullmatch(path.name) or os.path.lexists(path / STATE) or is_exported(path):
        return path
    manager = CheckpointManager(path)
    candidates, problems = manager.ranked() if which == "best" else (manager.all()[::-1], [])
    for checkpoint in candidates:
        try:
            verify(checkpoint, CONFIG, weights_file(weights))
        except ValueError as error:
            problems.append(error)
            continue
        for problem in problems:
            warnings.warn(f"{problem}; using {checkpoint}", stacklevel=2)
        return checkpoint
    if problems:
        raise ValueError(f"{problems[0]}, and of {len(problems)} checkpoints none is intact")
    raise ValueError(f"{path}: holds no {which} checkpoint; give a run directory (runs/NAME) or one of its checkpoints")


def _on_disk(path: str) -> Path:
    """Return the path of what is given by path, by name or by address."""
    if path.startswith(SCHEME):
        return fetch(path, (EXPORT, WEIGHTS))
    shipped = SHIPPED / path
    if Path(path).name == path and is_exported(shipped):
        if not os.path.lexists(path):
            return shipped
        warnings.warn(f"{path}: taken from this folder; the model {path} that comes with glow is hidden", stacklevel=3)
    return Path(path)


def run_directory(checkpoint: Path) -> Path:
    """Return the directory where samples and reports go: the run of a checkpoint, results/NAME of an exported model."""
    if is_exported(checkpoint):
        folder = checkpoint.absolute()
        if folder.parent.name == "snapshots":  # of the Hub's cache: models--USER--NAME/snapshots/COMMIT
            return Path("results") / folder.parent.parent.name.removeprefix("models--")
        return Path("results") / folder.resolve().name
    if checkpoint.parent.name != "checkpoints":  # given as "." perhaps
        checkpoint = checkpoint.resolve()
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint


def _set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint, so that nobody takes it for one."""
    names = (checkpoint.with_suffix(f".damaged-{number}") for number in itertools.count(1))
    return checkpoint.rename(next(name for name in names if not os.path.lexists(name)))


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
