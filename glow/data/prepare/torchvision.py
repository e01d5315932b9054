"""Any image data set of torchvision as a source of images."""

from __future__ import annotations

import inspect
import operator
from functools import cached_property
from typing import Any

from PIL import Image

from glow.data.images.decoding import check_mode, image_errors
from glow.data.prepare.base import Source


class TorchvisionSource(Source):
    """``torchvision:NAME[:SPLIT]``, an image data set of torchvision.

    The signature of its constructor shows which arguments it takes. Without SPLIT, the constructor chooses: train.
    """

    def __init__(self, spec: str, root: str, download: bool) -> None:
        self.spec, self.root = spec, root
        self.handle = self._open(download)
        item = self.handle[0] if len(self.handle) else None
        if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Image.Image)):
            raise ValueError(f"{spec}: not a data set of (image, target) pairs, or empty")
        name = spec.split(":", 1)[1].replace(":", "-")
        names = [f"{name}/{index:06d}" for index in range(len(self.handle))]
        super().__init__(spec, names, names, class_names(self.handle, item[1]))

    def _open(self, download: bool) -> Any:
        from torchvision import datasets  # slow to import

        name, _, split = self.spec.removeprefix("torchvision:").partition(":")
        cls = getattr(datasets, name, None)
        if not (isinstance(cls, type) and issubclass(cls, datasets.VisionDataset)):
            raise ValueError(f"{self.spec}: torchvision.datasets has no image data set {name!r}")
        parameters = constructor_parameters(cls)
        available = {"root": self.root, "download": download}
        arguments = {key: value for key, value in available.items() if key in parameters}
        if split and "split" in parameters:
            arguments["split"] = split
        elif split and "train" in parameters and split in ("train", "test"):
            arguments["train"] = split == "train"
        elif split:
            known = "train and test" if "train" in parameters else "no choice of splits"
            raise ValueError(f"{self.spec}: unknown split {split!r}; {name} has {known}")
        missing = [key for key, needed in parameters.items() if needed and key not in arguments]
        if missing:
            raise ValueError(
                f"{self.spec}: {name} needs {', '.join(missing)}" + "; add :SPLIT" * (missing == ["split"])
            )
        try:
            return cls(**arguments)
        except (RuntimeError, OSError, ImportError, ValueError) as error:
            hint = "" if download or "download" not in parameters else "; --download true lets torchvision fetch it"
            raise ValueError(f"{self.spec}: {' '.join(str(error).split())} (looked in {self.root}){hint}") from error

    @cached_property
    def handle(self) -> Any:
        """The data set."""
        return self._open(download=False)

    def load(self, index: int) -> Image.Image:
        """Return one image."""
        with image_errors(self.location(index)):
            image: Image.Image = self.handle[index][0]
            check_mode(self.location(index), image)
            return image


def constructor_parameters(cls: type) -> dict[str, bool]:
    """Return the parameters of a constructor, with those behind ``**kwargs``, and whether each is required."""
    parameters: dict[str, bool] = {}
    for base in cls.__mro__:
        signature = inspect.signature(base.__init__)  # type: ignore[misc]
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        for name, parameter in list(signature.parameters.items())[1:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                parameters.setdefault(name, parameter.default is parameter.empty)
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return parameters


def class_names(dataset: Any, first_target: Any) -> list[str] | None:
    """Return the class name of every image of a torchvision data set; None when its targets are not class numbers."""
    try:
        operator.index(first_target)
    except TypeError:
        return None
    for attribute in ("targets", "labels", "_labels", "y"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == len(dataset) and values[0] == first_target:
            break
    else:
        values = [dataset[index][1] for index in range(len(dataset))]
    targets = [operator.index(value) for value in values]
    if min(targets) < 0:
        return None
    width = len(str(max(targets)))
    names = [" ".join(name) if isinstance(name, tuple) else str(name) for name in getattr(dataset, "classes", ())]
    if len(names) <= max(targets) or len(set(names)) < len(names):  # ImageNet has two classes "crane"
        names = [f"{target:0{width}d}" for target in range(max(targets) + 1)]
    return [names[target] for target in targets]
