"""What ``prepare`` would read, before it writes anything."""

from __future__ import annotations

from collections import Counter

from glow.config import PrepareRun
from glow.console import Progress
from glow.data.images.decoding import ImageError, is_grey_mode
from glow.data.prepare.base import Source
from glow.data.prepare.selection import select_samples

NUM_TRIED = 200  # images of each source that are decoded
NUM_CLASSES = 8  # that are shown


def describe_sources(config: PrepareRun) -> str:
    """Return what a configuration would read: images, sizes, classes and splits.

    Raises:
        ValueError: as ``select_samples``.
    """
    selection = select_samples(config)
    lines = []
    for source in selection.sources:
        lines.append(f"{source.spec}: {len(source.paths)} images, {describe_labels(source)}")
        lines += [f"  {line}" for line in describe_images(source)]
    counts = {name: len(samples) for name, samples in selection.splits.items()}
    lines.append("splits: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    return "\n".join([*lines, "nothing was written: leave out --dry_run to prepare the data set"])


def describe_labels(source: Source) -> str:
    """Return the number of the classes of a source, and the largest ones."""
    if source.labels is None:
        return "no labels"
    common = Counter(source.labels).most_common()
    shown = ", ".join(f"{name} {count}" for name, count in common[:NUM_CLASSES])
    more = f", and {len(common) - NUM_CLASSES} more" if len(common) > NUM_CLASSES else ""
    return f"{len(common)} class{'es' * (len(common) != 1)} ({shown}{more})"


def describe_images(source: Source) -> list[str]:
    """Return sizes and colours of some images, evenly spread over a source, and which cannot be used."""
    step = max(1, len(source.paths) // NUM_TRIED)
    tried = range(0, len(source.paths), step)[:NUM_TRIED]
    sizes: Counter[tuple[int, int]] = Counter()
    colors: Counter[str] = Counter()
    problems = []
    with Progress(len(tried), "image") as progress:
        for index in tried:
            try:
                image = source.load(index)
                sizes[image.height, image.width] += 1
                colors["grey" if is_grey_mode(image) else "colour"] += 1
            except ImageError as error:
                problems.append(str(error))
            progress.update(1)
    lines = [f"tried {len(tried)} of them: {_describe_sizes(sizes)}" + "".join(f", {n} {c}" for c, n in colors.items())]
    if len(sizes) > 1:
        lines.append("sizes differ: --size brings all images to one size, --short_side keeps what they show")
    if len(colors) > 1:
        lines.append("colours differ: choose --color rgb or --color grey")
    if problems:
        lines.append(f"{len(problems)} cannot be used (--on_error skip leaves them out); the first: {problems[0]}")
    return lines


def _describe_sizes(sizes: Counter[tuple[int, int]]) -> str:
    if not sizes:
        return "none can be read"
    if len(sizes) == 1:
        ((height, width),) = sizes
        return f"all {height} x {width} (height x width)"
    heights, widths = zip(*sizes, strict=True)
    return f"{min(heights)} to {max(heights)} x {min(widths)} to {max(widths)} (height x width)"
