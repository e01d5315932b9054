"""Prepare a data set: write it beside its place, rename it when it is complete, and recognise an existing one."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from pathlib import Path

from glow.config import PrepareRun, config_to_dict
from glow.console import Progress
from glow.data.images.decoding import ImageError, ImageForm
from glow.data.prepare.linking import write_linked
from glow.data.prepare.scanning import Linking
from glow.data.prepare.selection import Selection, select_samples
from glow.data.prepare.shards import ShardWriter, write_shards
from glow.data.read.manifest import MANIFEST, Dataset, Shard, Split, load_dataset, size_range, write_manifest
from glow.data.read.samples import SamplesWriter
from glow.files.writing import sync
from glow.locking import locked

# Options that do not change what a data set holds.
INCIDENTAL = ("output", "num_workers", "torchvision_root", "download", "dry_run")
LATER = {
    "label": None,
    "link": False,
    "short_side": None,
    "checksum": "full",
}  # which data sets of version 0.1.0 do not know
LOCK, PARTIAL, SCANS = ".lock", ".partial", ".scans"
EMPTY = {LOCK, PARTIAL, SCANS, "lost+found"}  # what a directory that counts as empty may hold


def prepare(config: PrepareRun) -> Dataset:
    """Write a data set to ``config.output``, or return the one that is there and was made with the same options.

    An interrupted run leaves nothing at ``config.output``.

    Raises:
        ValueError: when a source, an image or an option cannot be used, or there is something else at the output.
    """
    target = Path(config.output).resolve()
    # A directory that exists may be a mount point, which cannot be renamed over and beside which there may be no room.
    directory, prefix = (target, "") if target.is_dir() else (target.parent, f".{target.name}")
    with locked(directory / f"{prefix}{LOCK}", config.output):
        partial = directory / f"{prefix}{PARTIAL}"
        if partial.parent == target and (partial / MANIFEST).is_file():  # a run was killed while it moved its files
            _move_into(target, partial)
        existing = find_prepared(config)
        return existing if existing is not None else _prepare(config, target, partial)


def _prepare(config: PrepareRun, target: Path, partial: Path) -> Dataset:
    scans = partial.with_name(partial.name.replace(PARTIAL, SCANS))
    selection = select_samples(config, Linking(config.checksum, scans) if config.link else None)
    if partial.exists():  # of a run that was killed
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        dataset = _write_dataset(config, selection, partial, name=target.name)
        if partial.parent == target:
            _move_into(target, partial)
        else:
            partial.rename(target)
            sync(target.parent)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(scans, ignore_errors=True)
    return dataset


def _move_into(target: Path, partial: Path) -> None:
    """Move the complete data set in ``partial`` up into ``target``; dataset.json comes last."""
    for path in sorted(partial.iterdir(), key=lambda path: (path.name == MANIFEST, path.name)):
        path.rename(target / path.name)
    partial.rmdir()
    sync(target)


def find_prepared(config: PrepareRun) -> Dataset | None:
    """Return the data set at ``config.output``, or None when nothing is there.

    Raises:
        ValueError: when it is damaged, was made with other options, or is not a data set.
    """
    target = Path(config.output)
    if not target.exists() or (target.is_dir() and {path.name for path in target.iterdir()} <= EMPTY):
        return None
    if (target / PARTIAL / MANIFEST).is_file():  # of a run that was killed at its end: prepare finishes it
        return None
    # Indices may lie beside the shards that they link, but not take the place of other indices.
    if config.link and target.is_dir() and not [*target.glob("*.samples"), *target.glob(MANIFEST)]:
        return None
    if not (target / MANIFEST).is_file():
        raise ValueError(f"{target}: exists, and prepare did not make it; choose another --output")
    dataset = load_dataset(target)
    if dataset.preparation != preparation(config):
        raise ValueError(f"{target}: holds a data set made with other options; choose another --output")
    for split in dataset.splits.values():
        files = [(shard.path, shard.num_bytes) for shard in split.shards if shard.location is None]
        files += [] if split.index is None else [(split.index.path, split.index.num_bytes)]
        for name, num_bytes in files:
            path = target / name
            if not (path.is_file() and path.stat().st_size == num_bytes):
                raise ValueError(f"{target}: damaged: {name} is missing or cut; choose another --output")
    return dataset


def preparation(config: PrepareRun) -> dict[str, object]:
    """Return the options that decide the content of a data set."""
    options = {name: value for name, value in config_to_dict(config).items() if name not in INCIDENTAL}
    return {name: value for name, value in options.items() if not (name in LATER and value == LATER[name])}


def _write_dataset(config: PrepareRun, selection: Selection, directory: Path, name: str) -> Dataset:
    if config.link:
        return write_linked(config, selection, directory, Path(config.output).resolve(), preparation(config))
    form = _find_form(config, selection)
    writer = ShardWriter(selection, form, directory, config.shard_size, skips=config.on_error == "skip")
    shards: dict[str, list[Shard]] = {split: [] for split in selection.splits}
    left_out: list[dict[str, str]] = []
    with_pages: list[str] = []
    sizes: set[tuple[int, int]] = set()
    num_images = sum(len(samples) for samples in selection.splits.values())
    with contextlib.ExitStack() as stack:
        indices = {name: stack.enter_context(SamplesWriter(directory / f"{name}.samples")) for name in shards}
        progress = stack.enter_context(Progress(num_images, "image"))
        # Closed at the end: no worker writes on after an error.
        results = stack.enter_context(contextlib.closing(write_shards(writer, config.num_workers)))
        for written in results:
            if written.shard is not None:
                shards[written.split].append(written.shard)
                indices[written.split].add(written.rows)
            left_out += written.left_out
            with_pages += written.with_pages
            sizes |= written.sizes
            progress.update(written.num_samples)
        splits = {name: Split.of(parts, indices[name].finish()) for name, parts in shards.items() if parts}
    if with_pages:
        first = "the first of each is taken"
        warnings.warn(
            f"{len(with_pages)} images have several pages or frames; {first}; one is {with_pages[0]}", stacklevel=2
        )
    for split, parts in shards.items():
        if not parts:
            first = f"the first is {left_out[0]['name']}: {left_out[0]['reason']}"
            raise ValueError(f"{split}: every image was left out; {first}")
    least, largest = size_range(sizes)
    dataset = Dataset(
        name=name,
        shape=(form.shape[0], *least),
        largest=largest,
        bit_depth=8,
        classes=selection.classes,
        splits=splits,
        preparation=preparation(config),
        left_out=tuple(left_out),
    )
    write_manifest(directory, dataset)
    sync(directory)
    return dataset


def _find_form(config: PrepareRun, selection: Selection) -> ImageForm:
    """Return the form of the stored images, from the options and the first image that can be read."""
    first_error = None
    for source in selection.sources:
        for index in range(len(source.paths)):
            try:
                return ImageForm.of(config, source.load(index))
            except ImageError as error:
                if config.on_error == "stop":
                    raise
                first_error = first_error or error
    raise ValueError(f"no image of {', '.join(config.source)} can be used; the first: {first_error}")
