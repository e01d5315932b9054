"""Checkpoints are written while training goes on."""

from __future__ import annotations

import copy
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.writing import Snapshot


class BackgroundSaver:
    """Writes checkpoints in a thread, one at a time: training waits only for the copy to host memory.

    A context manager; its exit waits for the last write.
    """

    def __init__(self, checkpoints: CheckpointManager) -> None:
        self._checkpoints = checkpoints
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[Path] | None = None

    def __enter__(self) -> BackgroundSaver:
        """Return the saver itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait for the last write, and raise its error unless there is one already."""
        self._executor.shutdown()
        if kind is None:
            self.check()

    def save(self, snapshot: Snapshot) -> None:
        """Start to write, once the checkpoint before is written. Nobody may change the tensors any more."""
        snapshot = replace(snapshot, state=copy.deepcopy(snapshot.state))
        if self._pending is not None:
            self._pending.result()
        self._pending = self._executor.submit(self._checkpoints.save, snapshot)

    def check(self) -> None:
        """Raise the error of a write that failed. Do not wait for one that is under way."""
        if self._pending is not None and self._pending.done():
            self._pending.result()
