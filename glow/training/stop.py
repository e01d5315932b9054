"""Ending a training before its last step: signals, a stop file, a time limit, a launcher that is gone.

A training that then waits in vain, for data or for another process, ends too.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch

from glow.files.writing import write_whole
from glow.training.checkpoints.manager import CheckpointManager

STOP_FILE = "stop"
STOPPED_FILE = "stopped.json"
INTERRUPT = signal.SIGINT.name
# What launchers set for the processes that they start.
LAUNCHERS = ("TORCHELASTIC_RUN_ID", "ACCELERATE_DYNAMO_BACKEND")
PATIENCE_S = 5.0  # with data that do not come, once there is a reason to stop
STUCK_S = 20.0  # with other processes; launchers and SLURM kill after 30 s
POLL_S = 1.0
LOOK_S = 1.0  # between two looks at the shared file system
URGENT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Item = TypeVar("Item")


class StopRequest:
    """Knows whether this process was asked to stop.

    By SIGTERM, SIGUSR1, SIGINT (Ctrl-C), SIGHUP (its terminal closed), a file ``stop`` in the run directory, the time
    limit, or the end of its launcher. A context manager that handles the signals. A second SIGINT ends the process at
    once; a second one of the others is harmless. The clock of the time limit starts when the object is made. The main
    process alone looks for the file, once a second.

    A process that was asked by a signal, and the main process for any reason, must not hang: when its main thread has
    run nothing for ``STUCK_S``, as in a collective whose other processes are dead, it writes stopped.json and ends with
    status 1, without a checkpoint.

    Attributes:
        is_starved: Whether the wait for data was given up: see ``next_of``.
        may_wait: Whether all is done, and the process waits for the end of the others as long as they need.
    """

    def __init__(self, run: str | Path, time_limit: str | None = None) -> None:
        self.run = Path(run)
        self.is_starved = self.may_wait = False
        self._is_main = os.environ.get("RANK", "0") == "0"
        self._reason: str | None = None
        self._looked_at = -math.inf
        self._seen_at = time.monotonic()  # when the main thread ran the handler of a signal
        # The last step and checkpoint get a twentieth of the time.
        limit = None if time_limit is None else 0.95 * parse_time(time_limit)
        self._deadline = None if limit is None else time.monotonic() + limit
        self._launcher = os.getppid() if any(name in os.environ for name in LAUNCHERS) else None
        self._waiting_since: float | None = None
        self._gives_up = False
        self._is_left = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> StopRequest:
        """Handle the signals."""
        signals = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
            signals.append(signal.SIGHUP)
        self._previous = {number: signal.signal(number, self._handle) for number in signals}
        self._main_thread = threading.get_ident()
        # A signal arrives here at once, also when the main thread waits outside of Python and runs no handler.
        self._signals, self._wakeup = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(self._wakeup, False)
        self._previous_wakeup = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the handlers of before."""
        self._is_left.set()
        self._watcher.join()
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._wakeup)
        os.close(self._signals)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def reason(self) -> str | None:
        """Return the reason to stop, or None. The first reason stays."""
        self._reason = self._reason or self._find_reason()
        return self._reason

    def _find_reason(self) -> str | None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            return "time limit"
        if self._launcher not in (None, os.getppid()):
            return "launcher ended"
        if self._is_main and time.monotonic() >= self._looked_at + LOOK_S:
            self._looked_at = time.monotonic()
            return self._stop_file()
        return None

    def _stop_file(self) -> str | None:
        return "stop file" if (self.run / STOP_FILE).exists() else None

    def next_of(self, items: Iterator[Item], stand_in: Item | None = None) -> Item:
        """Return the next item.

        If it does not come within some seconds, and there is a reason to stop, return ``stand_in`` and set
        ``is_starved``.

        Raises:
            ValueError: when there is no stand-in.
        """
        self._gives_up = False
        try:
            self._waiting_since = time.monotonic()
            try:
                return next(items)
            finally:
                self._waiting_since = None
        except _WaitGivenUp:
            self.is_starved = True
        if stand_in is None:
            raise ValueError(f"no data arrived before the training was asked to stop ({self.reason()})")
        return stand_in

    def _watch(self) -> None:
        """Wake the main thread when it waits for data in vain; end the process when it waits for others in vain."""
        urgent, moved_at, work_s = None, time.monotonic(), 0.0
        clock = time.pthread_getcpuclockid(self._main_thread)
        while not self._is_left.wait(POLL_S):
            now, since = time.monotonic(), self._waiting_since
            if since is not None and now > since + PATIENCE_S and (reason := self.reason() or self._stop_file()):
                self._reason = reason
                self._gives_up = True
                signal.pthread_kill(self._main_thread, signal.SIGUSR1)
            is_first = urgent is None
            urgent = urgent or self._urgent_signal() or (self.reason() if self._is_main else None)
            if urgent is None:
                continue
            self._reason = self._reason or urgent
            # A step outside of Python works. On a GPU a wait works too: it spins.
            before, work_s = work_s, time.clock_gettime(clock)
            works = work_s > before + 0.05 * POLL_S and not torch.cuda.is_initialized()
            if is_first or works or self.may_wait:
                moved_at = now
            if now > max(moved_at, self._seen_at) + STUCK_S:
                self._end(urgent)
            signal.pthread_kill(self._main_thread, signal.SIGUSR1)  # its handler shows that it runs

    def _urgent_signal(self) -> str | None:
        """Return the name of a signal that arrived, if it wants the end of this process."""
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._signals, 4096):
                if number in URGENT:
                    return signal.Signals(number).name
        return None

    def _end(self, reason: str) -> None:
        """End this process, from outside of its main thread."""
        latest = CheckpointManager(self.run).latest()
        step = int(latest.name.removeprefix("step-")) if latest else 0
        with contextlib.suppress(OSError):
            # Several processes may do this at once.
            own = self.run / f"{STOPPED_FILE}.{os.environ.get('RANK', '0')}"
            write_whole(own, json.dumps({"step": step, "reason": f"{reason}, while waiting"}) + "\n")
            own.replace(self.run / STOPPED_FILE)
        with contextlib.suppress(OSError):
            what = f"{reason}: this process waited for others in vain; it ends without a checkpoint"
            os.write(2, f"error: {what}. The same command goes on after step {step}\n".encode())
        os._exit(1)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._seen_at = time.monotonic()
        if self._gives_up and self._waiting_since is not None:
            raise _WaitGivenUp
        self._reason = self._reason or signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if self._is_main:
                # Not print: the signal may have come in the middle of one.
                with contextlib.suppress(OSError):
                    os.write(2, b"\ninterrupted: saving after this step; Ctrl-C again ends at once\n")


class _WaitGivenUp(BaseException):
    """Ends a wait for data. No ``except Exception`` on the way may take it."""


def forget_stop(run: str | Path) -> None:
    """Remove stopped.json of an earlier training from a run directory."""
    (Path(run) / STOPPED_FILE).unlink(missing_ok=True)


def record_stop(run: str | Path, step: int, reason: str) -> None:
    """Write stopped.json, which tells a job script to continue the run, and remove the stop file."""
    write_whole(Path(run) / STOPPED_FILE, json.dumps({"step": step, "reason": reason}) + "\n")
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
