"""What the stage edit writes for images: files by name, and lines to print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from glow.config import EditRun
from glow.editing.attributes import Directions, apply_direction, find_directions, flatten, load_directions
from glow.editing.choosing import Chosen, Data, choose
from glow.editing.interpolate import interpolate
from glow.editing.levels import mix_levels, resample_level
from glow.editing.pictures import enlarged, gif_bytes, png_bytes, sheet
from glow.editing.reconstruct import likeliest_labels, reconstruct
from glow.randomness import generator
from glow.trained.images import TrainedGlow

NUM_DRAWN = 4  # columns of levels that are drawn anew
HELD_OUT = 0.2  # of the images of two folders


@dataclass(frozen=True)
class Result:
    """Files by name, what the JSON file says, and lines to print."""

    files: dict[str, bytes]
    facts: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    directions: Directions | None = None

    def text(self, origin: Mapping[str, Any]) -> str:
        """Return the content of the JSON file; ``origin`` says of which model."""
        return json.dumps({**origin, **self.facts}, indent=1) + "\n"


def chosen(data: Data, config: EditRun, default_count: int = 8) -> Chosen:
    """Return the images that the options name."""
    return choose(data, config.split, config.images, config.label, default_count)


def bits_texts(model: TrainedGlow, images: torch.Tensor, labels: torch.Tensor | None, seed: int) -> list[str]:
    """Return the bits/dim of each image, as a caption."""
    return [f"{bits:.2f}" for bits in model.bits_per_dim(images, labels=labels, seed=seed).tolist()]


def write_reconstruction(data: Data, config: EditRun) -> Result:
    """Encode images and decode them."""
    images = chosen(data, config)
    labels = images.given_to(data.model)
    back, found = reconstruct(data.model, images.images, labels, config.seed, images.names)
    rows = [{"name": name, **asdict(item)} for name, item in zip(images.names, found, strict=True)]
    captions = [[f"{item.bits_per_dim:.2f}" for item in found], [f"{item.max_abs_error:.0e}" for item in found]]
    page = sheet([list(images.images), list(back)], ["image, bits/dim", "decoded, error"], captions=captions)
    worst, wrong = max(item.max_abs_error for item in found), sum(item.num_wrong_pixels for item in found)
    line = (
        f"largest error {worst:.1e} of the range of grey levels; {wrong} numbers of {back.numel()} come back different"
    )
    return Result({"reconstruct.png": png_bytes(page)}, {"bound": "elbo", "images": rows}, [line])


def write_interpolation(data: Data, config: EditRun) -> Result:
    """Draw the path through images, as a strip and as an animation."""
    images = chosen(data, config, 2)
    path, labels = interpolate(data.model, images.images, images.given_to(data.model), config.path, config.num_steps)
    texts = bits_texts(data.model, path, labels, config.seed)
    steps, parts = config.num_steps, len(images.images) - 1
    rows = [list(path[part * steps : (part + 1) * steps + 1]) for part in range(parts)]
    captions = [texts[part * steps : (part + 1) * steps + 1] for part in range(parts)]
    page = sheet(rows, [f"{config.path}, bits/dim"] * parts, captions=captions)
    facts = {"images": images.names, "path": config.path, "bits_per_dim": [float(text) for text in texts]}
    return Result({"interpolate.png": png_bytes(page), "interpolate.gif": gif_bytes(path)}, facts)


def write_levels(data: Data, config: EditRun) -> Result:
    """Draw each level of images anew, and keep the other levels."""
    images = chosen(data, config, 4)
    labels = images.given_to(data.model)
    latents = data.model.encode(images.images, labels=labels)
    columns, names = [images.images], ["image"]
    for level in range(1, len(latents) + 1):
        for draw in range(NUM_DRAWN):
            new = resample_level(data.model, latents, level, config.seed + draw, config.temperature)
            columns.append(data.model.decode(new, labels=labels))
            names.append(f"level {level}")
    rows = [[column[row] for column in columns] for row in range(len(images.images))]
    facts = {"images": images.names, "temperature": config.temperature}
    return Result({"levels.png": png_bytes(sheet(rows, images.names, names))}, facts)


def write_mix(data: Data, config: EditRun) -> Result:
    """Take some levels from the second image and the others from the first."""
    images = chosen(data, config, 2)
    if len(images.images) != 2:
        raise ValueError(f"images: {len(images.images)} given; mix takes two")
    labels = images.given_to(data.model)
    latents = data.model.encode(images.images, labels=labels)
    mixed = mix_levels([z[:1] for z in latents], [z[1:] for z in latents], config.levels)
    first = None if labels is None else labels[:1]
    image = data.model.decode(mixed, labels=first)
    shown = torch.cat([images.images, image])
    classes = None if labels is None or first is None else torch.cat([labels, first])
    captions = [bits_texts(data.model, shown, classes, config.seed)]
    names = ["A", "B", f"levels {', '.join(map(str, config.levels))} of B"]
    page = sheet([list(shown)], ["bits/dim"], names, captions)
    facts = {"images": images.names, "levels": config.levels}
    return Result({"mix.png": png_bytes(page), "mixed.png": png_bytes(enlarged(image[0], 1))}, facts)


def write_attributes(data: Data, config: EditRun) -> Result:
    """Find the directions of the classes of a data set, or of two folders."""
    model = data.model
    if config.positive is not None and config.negative is not None:
        names = [str(config.attribute)]
        fit, held_out = of_folders(model, config.positive, config.negative, config.seed, config.num_images)
    else:
        names = data.classes("train")
        sets = [data.first(split, config.num_images) for split in ("train", config.split)]
        fit, held_out = ((latents_of(model, part), one_hot(part, len(names))) for part in sets)
    found = find_directions(names, fit, held_out)
    title = f"{'attribute':24} {'with':>6} {'base rate':>9} {'means':>7} {'logistic':>8}   (held-out accuracy)"
    lines = [
        f"{a.name[:24]:24} {a.num_with:6} {a.base_rate:9.1%} {a.accuracy_mean:7.1%} {a.accuracy_logistic:8.1%}"
        for a in found.attributes
    ]
    return Result({}, {}, [title, *lines], found)


def write_applied(data: Data, config: EditRun, folder: Path) -> Result:
    """Move images along the direction of an attribute that was found before."""
    model, images = data.model, chosen(data, config)
    labels = images.given_to(model)
    direction = load_directions(folder, model.glow.num_dims).of(str(config.attribute), config.method)
    latents = model.encode(images.images, labels=labels)
    columns = [
        model.decode(apply_direction(latents, direction, strength), labels=labels) for strength in config.strengths
    ]
    texts = [bits_texts(model, column, labels, config.seed) for column in columns]
    rows = [[column[row] for column in columns] for row in range(len(images.images))]
    captions = [[text[row] for text in texts] for row in range(len(images.images))]
    heads = [f"{strength:+g}" for strength in config.strengths]
    page = sheet(rows, images.names, heads, captions)
    facts = {"images": images.names, "attribute": config.attribute, "method": config.method}
    return Result({"apply.png": png_bytes(page)}, {**facts, "strengths": config.strengths})


def latents_of(model: TrainedGlow, images: Chosen) -> torch.Tensor:
    """Return the latents of images, ``[N, D]``."""
    return flatten(model.encode(images.images, labels=images.given_to(model)))


def one_hot(images: Chosen, num_classes: int) -> torch.Tensor:
    """Return which class each image has, bool ``[N, classes]``."""
    if images.labels is None:
        raise ValueError("the data set has no labels; give two folders, positive and negative")
    return torch.nn.functional.one_hot(images.labels, num_classes).bool()


def of_folders(
    model: TrainedGlow, positive: str, negative: str, seed: int, num_images: int | None
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return latents and attribute of four fifths of the images of two folders, and of one fifth that is held out."""
    paths: list[Sequence[Path]] = []
    for name, folder in (("positive", positive), ("negative", negative)):
        files = sorted(path for path in Path(folder).glob("*") if path.is_file() and not path.name.startswith("."))
        if len(files) < 5:
            raise ValueError(f"{name}: {folder}: {len(files)} files; give a folder of 5 images or more")
        paths.append(files[:num_images])
    images = model.read_images([path for part in paths for path in part])
    has = torch.tensor([[part == 0] for part in range(2) for _ in paths[part]])
    latents = flatten(model.encode(images, labels=likeliest_labels(model, images)))
    order = torch.from_numpy(generator(seed, "folders").permutation(len(images)))
    count = round(HELD_OUT * len(images))
    return (latents[order[count:]], has[order[count:]]), (latents[order[:count]], has[order[:count]])
