"""Ending a training before its last step: signals, a stop file, a time limit."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from types import FrameType

STOP_FILE = "stop"
STOPPED_FILE = "stopped.json"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Knows whether this process was asked to stop: by SIGTERM, SIGUSR1, a file ``stop`` in the run directory, or time.

    A context manager that handles the signals; a second signal is harmless. The clock of the time limit starts when
    the object is made.
    """

    def __init__(self, run: str | Path, time_limit: str | None = None) -> None:
        self.run = Path(run)
        self._signal: str | None = None
        # The last step and checkpoint get a twentieth of the time.
        limit = None if time_limit is None else 0.95 * parse_time(time_limit)
        self._deadline = None if limit is None else time.monotonic() + limit

    def __enter__(self) -> StopRequest:
        """Handle the signals."""
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the handlers of before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def reason(self) -> str | None:
        """Return the reason to stop, or None."""
        if self._signal:
            return self._signal
        if self._deadline is not None and time.monotonic() > self._deadline:
            return "time limit"
        return "stop file" if (self.run / STOP_FILE).exists() else None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name


def forget_stop(run: str | Path) -> None:
    """Remove stopped.json of an earlier training from a run directory."""
    (Path(run) / STOPPED_FILE).unlink(missing_ok=True)


def record_stop(run: str | Path, step: int, reason: str) -> None:
    """Write stopped.json, which tells a job script to continue the run, and remove the stop file."""
    partial = Path(run) / f"{STOPPED_FILE}.partial"
    partial.write_text(json.dumps({"step": step, "reason": reason}) + "\n")
    partial.replace(Path(run) / STOPPED_FILE)
    remove_stop_file(run)


def remove_stop_file(run: str | Path) -> None:
    """Remove the stop file, so that it does not stop the next training."""
    (Path(run) / STOP_FILE).unlink(missing_ok=True)


def parse_time(text: str) -> float:
    """Return the seconds of ``SECONDS``, ``[HH:]MM:SS`` or ``D-HH:MM:SS``.

    Raises:
        ValueError: for anything else.
    """
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    try:
        if len(parts) > 3 or (dash and len(parts) != 3):
            raise ValueError
        seconds = 86400 * int(days or 0) + sum(float(part) * 60**n for n, part in enumerate(reversed(parts)))
    except ValueError as error:
        raise ValueError(f"time_limit: {text!r} is not allowed; give SECONDS, HH:MM:SS or D-HH:MM:SS") from error
    if seconds <= 0:
        raise ValueError(f"time_limit: {text!r} is not allowed; give more than 0 seconds")
    return seconds
