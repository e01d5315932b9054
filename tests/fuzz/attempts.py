"""Run a stage on a changed file: it ends with a result or one line, within 10 s and 1 GB."""

import contextlib
import io
import os
import re
import time
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from hypothesis import HealthCheck, settings

from glow.cli import run_stage

SECONDS, BYTES = 10, 2**30
EXAMPLES = int(os.environ.get("GLOW_FUZZ", "30"))
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize="GLOW_FUZZ" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def memory(name):
    """A line of the system's account of this process, in bytes: VmRSS now, or VmHWM, the most so far."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def attempt(main, *arguments):
    """Run a stage as the command line does; return what it returns, or None after one line and status 1."""
    Path("/proc/self/clear_refs").write_text("5")  # the most memory so far is that of now
    before, start, results, status = memory("VmRSS"), time.perf_counter(), [], 0
    out, err = io.StringIO(), io.StringIO()
    AcceleratorState._reset_state(reset_partial_state=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr("glow.cli.stage._keep_own_warnings", lambda: None)
        try:
            run_stage(lambda: results.append(main([str(argument) for argument in arguments])))
        except SystemExit as end:
            status, results = end.code, [None]
    if results == [None] and status:
        assert status == 1
        errors = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, err.getvalue()
        assert errors[0].isprintable()
        assert 8 < len(errors[0]) < 2000
    assert "Traceback" not in err.getvalue()
    assert time.perf_counter() - start < SECONDS
    assert memory("VmHWM") - before < BYTES
    return results[0]
