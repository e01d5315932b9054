"""Results of a benchmark as a table, and as a line of a table in a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glow.benchmarking.timing import Spread
from glow.config import BenchmarkRun

HEAD = (
    "model, images a step",
    "device",
    "training",
    "log_prob",
    "sampling 64",
    "sampling 1",
    "reading",
    "peak GiB",
    "of the limit, training",
    "times as fast as",
)
START, END = "<!-- performance -->\n", "<!-- -->"


@dataclass(frozen=True)
class Measurement:
    """Speed of one kind of call."""

    name: str
    """Kind of call."""
    num_images: int
    """Images of a call."""
    images_per_s: Spread
    """Speed."""
    call_s: Spread
    """Time of a call."""
    flops: float | None = None
    """Floating-point operations of a call, computed from the configuration. None: the call does hardly any."""
    fraction_of_limit: float | None = None
    """Share of the speed that arithmetic and memory of the device allow. None: not known."""
    rivals: Mapping[str, Spread] | None = None
    """Speed of each rival that took turns with it, in images a second."""
    ratios: Mapping[str, Spread] | None = None
    """The time of each rival divided by ours, round by round."""


def describe(results: Mapping[str, Any], measurements: Sequence[Measurement]) -> str:
    """Return all results as text: a line for each speed, with its rivals below."""
    limits = results["limits"]
    lines = [
        f"{results['num_parameters'] / 1e6:.2f} M parameters, {results['num_macs'] / 1e9:.3f} G multiply-accumulates "
        "in a forward pass of one image",
        f"limits: {limits['flops_per_s'] / 1e9:.1f} GFLOP/s in products of {limits['dtype'].removeprefix('torch.')} "
        f"matrices, {limits['bytes_per_s'] / 1e9:.1f} GB/s in copies",
        f"  {'':28}{'images/s (quartiles)':28}{'s a call':>10}{'of the limit':>14}",
    ]
    for each in measurements:
        share = f"{each.fraction_of_limit:.0%}" if each.fraction_of_limit is not None else ""
        lines.append(f"  {each.name:28}{each.images_per_s!s:28}{each.call_s.median:>10.3g}{share:>14}")
        for name, speed in (each.rivals or {}).items():
            assert each.ratios is not None
            lines.append(f"    {name:26}{speed!s:28} takes {each.ratios[name]} times as long")
    for name, memory in results["memory"].items():
        peak, held = memory["peak_bytes"] / 2**30, memory["held_bytes"] / 2**30
        lines.append(f"memory of a step, {name}: {peak:.3f} GiB, of which weights, averages and optimiser {held:.3f}")
    for name, value in results.get("precision", {}).items():
        lines.append(f"networks in {name}: {value:.5f} bits/dim")
    return "\n".join(lines)


def describe_model(run: BenchmarkRun) -> str:
    """Return model, batch and memory mode: the first cell of a line."""
    model, train = run.model, run.train
    assert model.image_shape is not None
    return (
        f"L {model.num_levels}, K {model.steps_text}, width {model.hidden_channels}, {model.coupling}; "
        f"{train.batch_size} images of {'x'.join(map(str, model.image_shape))}, {run.memory}"
        f"{', compiled' if run.compile else ''}"
    )


def describe_device(environment: Mapping[str, Any], is_cpu: bool, mixed_precision: str) -> str:
    """Return device and precision: the second cell of a line."""
    device = f"{environment['cpu']}, {environment['num_threads']} thread(s)" if is_cpu else environment["device"]
    return device if mixed_precision == "no" else f"{device}, {mixed_precision}"


def row(model: str, device: str, measurements: Sequence[Measurement], memory: Mapping[str, Any]) -> str:
    """Return the results as a line of the table with the columns HEAD."""
    by_name = {each.name: each for each in measurements}
    names = ("training", "log_prob", "sampling 64", "sampling 1", "reading")
    speeds = [f"{by_name[name].images_per_s.median:.3g}" if name in by_name else "" for name in names]
    share = by_name["training"].fraction_of_limit or 0
    ratios: dict[str, list[str]] = {}
    for name in ("training", "sampling 64", "sampling 1"):
        for rival, spread in (by_name[name].ratios or {}).items():
            ratios.setdefault(rival, []).append(f"{name} {spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})")
    against = "; ".join(f"{rival}: {', '.join(parts)}" for rival, parts in ratios.items())
    cells = [model, device, *speeds, f"{memory['ours']['peak_bytes'] / 2**30:.2f}", f"{share:.0%}", against]
    return f"| {' | '.join(cells)} |"


def rows_of(path: str | Path) -> tuple[str, list[str], str]:
    """Return the text before the table of a document, its lines below the head, and the text after it.

    Raises:
        ValueError: when the document has no place for the table.
    """
    before, found, after = Path(path).read_text().partition(START)
    old, ended, after = after.partition(END)
    if not found or not ended:
        raise ValueError(f"readme: {path} has no lines {START.strip()} and {END}")
    return before, old.splitlines()[2:], after


def put_row(path: str | Path, line: str) -> None:
    """Put a line into the table of a document; it replaces an earlier line of the same model and device.

    Raises:
        ValueError: when the document has no place for the table.
    """
    before, rows, after = rows_of(path)
    kept = [each for each in rows if _subject(each) != _subject(line)]
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", *kept, line]
    Path(path).write_text(before + START + "\n".join(lines) + "\n" + END + after)


def _subject(line: str) -> list[str]:
    """Return model and device of a line: its first two cells."""
    return line.split("|")[1:3]
