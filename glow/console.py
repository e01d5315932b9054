"""How far a long work is: a bar on a terminal, lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

FIRST_LINE_S, LONGEST_S = 2.0, 30.0  # between the lines of a log

Item = TypeVar("Item")


class Progress:
    """How far a work is: a bar on a terminal; elsewhere a line after 2 s, then at intervals that grow to 30 s.

    A context manager. Both go to standard error.

    Args:
        total: Number of units; None if it is not known.
        unit: What is counted.
        title: Of the work.
        initial: Units that were done before.
        rated: What the speed counts instead of units, and how many of it a unit has.
        is_shown: False for processes that show nothing.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        title: str = "",
        *,
        initial: int = 0,
        rated: tuple[str, int] | None = None,
        is_shown: bool = True,
    ) -> None:
        self._total, self._unit, self._title = total, unit, title
        self._rated, self._rated_per_unit = rated or (unit, 1)
        self._is_shown = is_shown
        is_terminal = is_shown and sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=title or None, unit=unit, initial=initial) if is_terminal else None
        self._done = self._done_at_line = initial
        self._interval_s = FIRST_LINE_S
        self._line_s = time.monotonic()

    def __enter__(self) -> Progress:
        """Return the progress itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int = 1, note: str = "") -> None:
        """Count units that are done; ``note`` is shown beside them."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif self._is_shown and time.monotonic() >= self._line_s + self._interval_s:
            self._write_line(note)

    def print(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        with tqdm.external_write_mode() if self._bar is not None else contextlib.nullcontext():
            print(text, flush=True)  # noqa: T201

    def _write_line(self, note: str) -> None:
        now = time.monotonic()
        per_s = (self._done - self._done_at_line) / (now - self._line_s)
        if per_s == 0:
            return
        rate, plural = per_s * self._rated_per_unit, "es" if self._rated.endswith("ch") else "s"
        details = [note] if note else []
        details.append(f"{rate:,.0f} {self._rated}{plural}/s" if rate >= 10 else f"{rate:.2g} {self._rated}{plural}/s")
        if self._total is not None:
            details.append(f"{tqdm.format_interval((self._total - self._done) / per_s)} left")
        position = f"{self._done}" if self._total is None else f"{self._done}/{self._total}"
        line = f"{self._title} {self._unit} {position}: {', '.join(details)}".lstrip()
        print(line, file=sys.stderr, flush=True)  # noqa: T201
        self._done_at_line, self._line_s = self._done, now
        self._interval_s = min(2 * self._interval_s, LONGEST_S)


def track(
    items: Iterable[Item], total: int | None, unit: str, title: str = "", *, is_shown: bool = True
) -> Iterator[Item]:
    """Yield items, and show how many of ``total`` are done."""
    with Progress(total, unit, title, is_shown=is_shown) as progress:
        for item in items:
            yield item
            progress.update()
