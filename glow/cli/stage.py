"""Running a stage from the command line."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from glow.cli.streams import escape, guard

PATIENCE_S = 10.0  # for the main process to fail too


def run_stage(main: Callable[[], Any]) -> None:
    """Run a stage from the command line: a user's mistake becomes one line on stderr and exit status 1."""
    rank, local_rank = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    guard()
    _keep_own_warnings()
    try:
        main()
    except (ValueError, OSError) as error:
        # Most mistakes meet all processes, and the main one prints them: its launcher then ends the others as they
        # wait here. What meets one process alone is printed a little later.
        time.sleep(PATIENCE_S * ((rank > 0) + (local_rank > 0)))
        print(f"error: {one_line(error)}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except KeyboardInterrupt:
        if rank == 0:
            print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def one_line(error: Exception) -> str:
    """Return an error in one line that is safe to print; of a failed system call the file and the reason."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    return escape(" ".join(text.split()))


def _keep_own_warnings() -> None:
    """Show warnings of this project in one line each, and none of the libraries below it, unless -W asks for them."""
    if sys.warnoptions:
        return
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"(glow|pipelines|__main__)\b")
    warnings.showwarning = _show_warning  # type: ignore[assignment]


def _show_warning(message: Warning | str, *place: object) -> None:
    print(f"warning: {escape(' '.join(str(message).split()))}", file=sys.stderr)  # noqa: T201
