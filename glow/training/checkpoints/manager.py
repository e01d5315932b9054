"""The checkpoints of a run: which there are, which is the best, and which to keep."""

from __future__ import annotations

import itertools
import re
import shutil
import warnings
from contextlib import suppress
from pathlib import Path

from glow.training.checkpoints.reading import STATE, read_state, verify
from glow.training.checkpoints.writing import Snapshot, write

STEP_PATTERN = re.compile(r"step-(\d{8})")


class CheckpointManager:
    """The checkpoints of one run: ``<run>/checkpoints/step-00001000/``."""

    def __init__(self, run: str | Path, keep_last: int = 2, keep_every: int | None = None) -> None:
        self.directory = Path(run) / "checkpoints"
        self.keep_last = keep_last
        self.keep_every = keep_every

    def save(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint, then remove old ones; return its directory."""
        target = self.directory / f"step-{snapshot.state['step']:08d}"
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
                f"{damaged[0][1]}, and of {len(damaged)} checkpoints none is intact; remove {self.directory} to begin "
                "anew, or choose another output"
            )
        return None

    def best(self) -> Path | None:
        """Return the checkpoint with the lowest validation bits/dim; None if none was validated."""
        validated = []
        for path in self.all():
            with suppress(ValueError):  # a damaged one is not the best
                score = read_state(path).get("validation_bits_per_dim")
                validated += [] if score is None else [(score, path)]
        return min(validated)[1] if validated else None

    def prune(self) -> None:
        """Remove the remains of interrupted saves, and all checkpoints but the last, the best, each ``keep_every``."""
        old = set(self.all()[: -self.keep_last]) - {self.best()}
        for path in {path for path in old if self.keep_every is None or _step_of(path) % self.keep_every}:
            # Renamed first, so that an interrupted removal leaves nothing that looks like a checkpoint.
            shutil.rmtree(path.rename(path.with_suffix(".partial")))
        for path in self.directory.glob("*.partial"):
            shutil.rmtree(path)


def find_checkpoint(path: str | Path, which: str = "latest") -> Path:
    """Return the directory of a checkpoint, given itself or a run directory.

    Args:
        path: ``runs/NAME`` or ``runs/NAME/checkpoints/step-N``.
        which: ``latest`` or ``best`` of a run directory.

    Raises:
        ValueError: when there is none.
    """
    path = Path(path)
    if (path / STATE).is_file():
        return path
    manager = CheckpointManager(path)
    found = manager.best() if which == "best" else manager.latest()
    if not path.exists():
        raise ValueError(f"{path}: no such checkpoint or run directory")
    if found is None:
        raise ValueError(f"{path}: no {which} checkpoint there (neither a checkpoint nor a run directory with one)")
    return found


def run_directory(checkpoint: Path) -> Path:
    """Return the run directory of a checkpoint, where its samples and reports go."""
    checkpoint = checkpoint.resolve()
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint


def _set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint, so that nobody takes it for one."""
    names = (checkpoint.with_suffix(f".damaged-{number}") for number in itertools.count(1))
    return checkpoint.rename(next(name for name in names if not name.exists()))


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
