"""Read the state dicts that other programs wrote by torch.save."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from glow.files.reading import open_file


def read_state_dict(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Read a state dict that ``torch.save`` wrote. Files with anything but tensors are refused; no code is run.

    Args:
        path: The file.
        key: Where in the file a program puts the state dict, beside other things. The file may also be the state dict.

    Raises:
        ValueError: when the file is missing or has no state dict.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if zipfile.is_zipfile(file) and sum(part.file_size for part in zipfile.ZipFile(file).infolist()) > size:
                raise ValueError("compressed: it may be small, and take any memory")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever its unpickler meets in a file of another kind
            raise ValueError(f"{path}: not a file of tensors written by torch.save") from error
    if isinstance(state, dict) and isinstance(state.get(key), dict):
        state = state[key]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path}: not a state dict (tensors by name)")
    _check_ordinary(state, size, str(path))
    return state


def _check_ordinary(state: Mapping[str, Tensor], size: int, path: str) -> None:
    """Raise a ValueError for tensors that are no plain arrays of real numbers, or take more memory than the file."""
    for name, tensor in state.items():
        is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
        if not is_plain or tensor.is_quantized or tensor.is_complex():
            raise ValueError(f"{path}: {name}: not a plain tensor of real numbers")
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if num_bytes > size:
        raise ValueError(f"{path}: damaged: tensors of {num_bytes:,} bytes, but the file has {size:,}")
