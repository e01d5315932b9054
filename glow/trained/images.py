"""A trained Glow: log-probabilities, bits/dim, samples and latents of plain arrays of images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glow.data.images.decoding import ImageForm, decode
from glow.data.read.batch import Batch
from glow.data.read.loader import dequantization_noise
from glow.evaluation.likelihood import Bound, score_batches
from glow.models.glow import Glow, standard_normal_log_prob
from glow.models.images import dequantize, quantize
from glow.sampling.groups import aligned_ranges, group_size
from glow.sampling.images import Draw, number_of_class, sample_images

Labels = Tensor | np.ndarray | Sequence[int] | None


class TrainedGlow:
    """A trained Glow, for use from Python.

    Images are uint8 ``[N, C, H, W]``, tensors or numpy arrays, as many as fit in memory: the model computes them in
    groups of one size, so that a result does not depend on how many there are. Results are tensors on the CPU.

        >>> model = glow.load("runs/digits")
        >>> images = model.read_images(["a.png", "b.jpg"])
        >>> bits = model.bits_per_dim(images)
        >>> samples = model.sample(16, temperature=0.7)
        >>> z = model.encode(images)
        >>> same = model.decode(z)

    Attributes:
        glow: The model itself, a ``torch.nn.Module`` in eval mode; it computes on the device of its parameters.
        classes: The names of its classes, in the order of their numbers; None if it has no classes, or no names.
    """

    def __init__(self, glow: Glow, classes: Sequence[str] | None = None) -> None:
        self.glow = glow.eval()
        self.classes = classes

    def __repr__(self) -> str:
        """Say what kind of images the model is for."""
        shape = " x ".join(map(str, self.glow.image_shape))
        classes = f", {self.glow.num_classes} classes" if self.glow.num_classes else ""
        return f"TrainedGlow(images {shape}, {self.glow.config.num_bits} bits{classes})"

    def read_images(self, paths: Sequence[str | Path]) -> Tensor:
        """Read image files as this model takes them, uint8 0 to 255 ``[N, C, H, W]``.

        They become what ``prepare --size --color`` makes of them: cropped at the centre and resized, in the colour of
        the model, upright, and transparent pixels white.

        Args:
            paths: Files in a format that ``prepare`` reads, such as PNG and JPEG.

        Raises:
            OSError: when a file cannot be opened.
            ValueError: when one is no image, or damaged; names it.
        """
        if isinstance(paths, str | Path):
            raise ValueError(f"paths: {str(paths)!r} is one path; give a list, such as [{str(paths)!r}]")
        channels, height, width = self.glow.image_shape
        form = ImageForm.of_shape(self.glow.image_shape)
        images = torch.empty(len(paths), height, width, channels, dtype=torch.uint8)
        for image, path in zip(images, paths, strict=True):
            pixels = form.apply(str(path), decode(str(path), Path(path).read_bytes()))
            image.copy_(torch.from_numpy(pixels.copy()).view_as(image))
        return images.permute(0, 3, 1, 2).contiguous()

    def log_prob(
        self,
        images: Tensor | np.ndarray,
        *,
        labels: Labels = None,
        seed: int = 0,
        keys: Sequence[str] | None = None,
    ) -> Tensor:
        """Return a lower bound of the log-probability of each image, float64 ``[N]``, in nats.

        The arguments, and what the bound is, are those of ``bits_per_dim``.
        """
        return self.bits_per_dim(images, labels=labels, seed=seed, keys=keys) * (-self.glow.num_dims * math.log(2))

    def bits_per_dim(
        self,
        images: Tensor | np.ndarray,
        *,
        labels: Labels = None,
        seed: int = 0,
        keys: Sequence[str] | None = None,
    ) -> Tensor:
        """Return the bits/dim of each image, float64 ``[N]``.

        It is a bound (ELBO) by one draw of the dequantisation noise: on average over draws, the true bits/dim are at
        most this. With the keys of a data set, these are the numbers that ``evaluate`` writes to per_image.csv.

        Args:
            images: uint8, 0 to 255, ``[N, C, H, W]``.
            labels: Of a class-conditional model: the class of each image. Default: the class is unknown; the
                probability of an image is the mean over equally likely classes.
            seed: Of the noise.
            keys: One name an image; the noise of an image depends on the seed and its key. Default: "0", "1" ..., the
                place of each image in the array.

        Raises:
            ValueError: for images of another shape or type, or labels or keys that do not fit.
        """
        images, labels = self._check_images(images), self._check_labels(labels, len(images))
        keys = [str(number) for number in range(len(images))] if keys is None else list(keys)
        if len(keys) != len(images):
            raise ValueError(f"keys: {len(keys)} for {len(images)} images; give one an image")
        bound = Bound("elbo", 1, seed, labels="unknown" if labels is None else "given")
        scores = score_batches(self.glow, self._batches(images, labels, keys, seed), bound)
        return torch.tensor([score.bits_per_dim for score in scores], dtype=torch.float64)

    def sample(
        self,
        count: int,
        *,
        temperature: float | Sequence[float] = 0.7,
        seed: int = 0,
        label: int | str | None = None,
        first_index: int = 0,
    ) -> Tensor:
        """Draw images, uint8 ``[count, C, H, W]``: those that ``sample`` writes, bit by bit.

        Args:
            count: How many.
            temperature: What the latents are multiplied with: one number, or one a level, shallowest first.
            seed: Image i depends on the seed and i, and not on how many are drawn.
            label: The class of all images, by number or name. Default: the classes in turn.
            first_index: The i of the first image.

        Raises:
            ValueError: for a negative number, or a class or number of levels that the model does not have.
        """
        number = number_of_class(label, self.classes)
        values = {"count": count, "first_index": first_index, "label": number or 0, "temperature": np.min(temperature)}
        for name, value in values.items():
            if not value >= 0:
                raise ValueError(f"{name}: {value} is not allowed; give 0 or more")
        batches = sample_images(self.glow, range(first_index, first_index + count), temperature, Draw(seed, number))
        return torch.cat([torch.empty(0, *self.glow.image_shape, dtype=torch.uint8), *batches])

    def encode(
        self,
        images: Tensor | np.ndarray,
        *,
        labels: Labels = None,
        seed: int | None = None,
    ) -> list[Tensor]:
        """Return the latents of images: one tensor ``[N, c, h, w]`` a level, shallowest first.

        Under the model each is standard normal.

        Args:
            images: uint8 ``[N, C, H, W]``.
            labels: Of a class-conditional model, which needs them: the class of each image.
            seed: A pixel of an image stands for a cell of real numbers. Default: the centre of the cell, which
                ``decode`` brings back exactly. With a seed: a point in the cell, by the noise of ``bits_per_dim``; near
                the border of a cell, rounding may bring back its neighbour.

        Raises:
            ValueError: for images of another shape or type, or labels that do not fit.
        """
        return self.encode_points(self.points(images, seed=seed), labels=labels)[0]

    def decode(self, latents: Sequence[Tensor], *, labels: Labels = None) -> Tensor:
        """Return the images of latents, uint8 ``[N, C, H, W]``.

        ``decode(encode(images))`` gives the images back exactly, reduced to the bits that the model is for.

        Args:
            latents: One tensor ``[N, c, h, w]`` a level, shallowest first, as ``encode`` returns them.
            labels: Of a class-conditional model, which needs them: the class of each image.

        Raises:
            ValueError: for latents of other shapes, or labels that do not fit.
        """
        return quantize(self.decode_points(latents, labels=labels), self.glow.config.num_bits)

    @torch.no_grad()
    def points(self, images: Tensor | np.ndarray, *, seed: int | None = None) -> Tensor:
        """Return the points in data space that ``encode`` takes for images, ``[N, C, H, W]`` in [-1/2, 1/2].

        The arguments are those of ``encode``.
        """
        images, groups = self._check_images(images), []
        for rows in self._groups(len(images)):
            pixels = self._padded(images[rows])
            if seed is None:
                centres = torch.full_like(pixels, 0.5, dtype=self._parameter.dtype)
                x = dequantize(pixels, centres, self.glow.config.num_bits)
            else:
                noise = [self._noise(str(number), seed) for number in range(rows.start, rows.stop)]
                x, _ = self.glow.dequantize(pixels, self._padded(torch.stack(noise), 0.5).to(self._parameter.dtype))
            groups.append(x[: rows.stop - rows.start].cpu())
        return torch.cat([torch.empty(0, *self.glow.image_shape, dtype=self._parameter.dtype), *groups])

    @torch.no_grad()
    def encode_points(self, x: Tensor, *, labels: Labels = None) -> tuple[list[Tensor], Tensor]:
        """Return the latents of points in data space ``[N, C, H, W]``, and their exact log-density, float64 ``[N]``.

        The log-density is in nats; the range of all grey levels, from -1/2 to 1/2, is the unit of length.

        Raises:
            ValueError: for points of another shape, or labels that do not fit.
        """
        if x.shape[1:] != self.glow.image_shape:
            raise ValueError(f"points: {_described(x)}; give [N, C, H, W] with {list(self.glow.image_shape)}")
        labels = self._check_labels(labels, len(x))
        groups, densities = [], [torch.empty(0, dtype=torch.float64)]
        for rows in self._groups(len(x)):
            latents, logdet = self.glow.encode(
                self._padded(x[rows].to(self._parameter.dtype)), None if labels is None else self._padded(labels[rows])
            )
            density = logdet.double() + sum(standard_normal_log_prob(latent.double()) for latent in latents)
            groups.append([latent[: rows.stop - rows.start].cpu() for latent in latents])
            densities.append(density[: rows.stop - rows.start].cpu())
        empty = [torch.empty(0, *shape, dtype=self._parameter.dtype) for shape in self.glow.latent_shapes]
        return [torch.cat(parts) for parts in zip(empty, *groups, strict=True)], torch.cat(densities)

    @torch.no_grad()
    def decode_points(self, latents: Sequence[Tensor], *, labels: Labels = None) -> Tensor:
        """Return the points in data space ``[N, C, H, W]`` of latents; the arguments are those of ``decode``."""
        groups = []
        latents, labels = self._check_latents(latents), self._check_labels(labels, len(latents[0]))
        for rows in self._groups(len(latents[0])):
            padded = [self._padded(latent[rows]) for latent in latents]
            x = self.glow.decode(padded, None if labels is None else self._padded(labels[rows]))
            groups.append(x[: rows.stop - rows.start].cpu())
        return torch.cat([torch.empty(0, *self.glow.image_shape, dtype=self._parameter.dtype), *groups])

    def _batches(self, images: Tensor, labels: Tensor | None, keys: Sequence[str], seed: int) -> Iterator[Batch]:
        for rows in self._groups(len(images)):
            noise = torch.stack([self._noise(key, seed) for key in keys[rows]])
            yield Batch(list(keys[rows]), images[rows], noise, None if labels is None else labels[rows])

    def _noise(self, key: str, seed: int) -> Tensor:
        return torch.from_numpy(dequantization_noise(key, self.glow.image_shape, seed))

    def _groups(self, count: int) -> Iterator[slice]:
        for rows in aligned_ranges(range(count), group_size(self.glow.image_shape)):
            yield slice(rows.start, rows.stop)

    def _padded(self, rows: Tensor, value: float = 0) -> Tensor:
        """Fill up ``[n, ...]`` to a whole group, on the device of the model."""
        group = rows.new_full((group_size(self.glow.image_shape), *rows.shape[1:]), value)
        group[: len(rows)] = rows
        return group.to(self._parameter.device)

    @property
    def _parameter(self) -> Tensor:
        return next(self.glow.parameters())

    def _check_images(self, images: Tensor | np.ndarray) -> Tensor:
        if isinstance(images, np.ndarray) and images.dtype == np.uint8:
            images = torch.from_numpy(images.copy())  # torch warns of arrays that cannot be written to
        shape = self.glow.image_shape
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.shape[1:] != shape:
            raise ValueError(
                f"images: {_described(images)}, but this model takes a tensor or a numpy array, uint8 (0 to 255) "
                f"[N, C, H, W] with [C, H, W] = {list(shape)}; read_images reads files so"
            )
        return images.cpu()

    def _check_latents(self, latents: Sequence[Tensor]) -> list[Tensor]:
        shapes = [list(shape) for shape in self.glow.latent_shapes]
        given = [list(latent.shape) for latent in latents]
        if [shape[1:] for shape in given] != shapes or len({shape[0] for shape in given}) != 1:
            raise ValueError(f"latents: shapes {given}, but this model takes [N, c, h, w] with {shapes}, one a level")
        return [latent.cpu().to(self._parameter.dtype) for latent in latents]

    def _check_labels(self, labels: Labels, count: int) -> Tensor | None:
        if labels is None:
            return None
        num_classes = self.glow.num_classes
        if not num_classes:
            raise ValueError("labels: this model is not class_conditional and takes none; leave them out")
        labels = torch.as_tensor(labels).cpu()
        if labels.shape != (count,) or labels.is_floating_point():
            raise ValueError(f"labels: {_described(labels)}; give {count} whole numbers, one an image")
        if count and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(f"labels: {int(labels.min())} to {int(labels.max())}; allowed are 0 to {num_classes - 1}")
        return labels.long()


def _described(value: object) -> str:
    """Return the type and shape of something that is not what was asked for."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__
