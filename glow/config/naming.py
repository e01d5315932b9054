"""Folders of their own for results that were made with other options."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Any

MAX_LENGTH = 100


def options_suffix(config: Any, names: tuple[str, ...]) -> str:
    """Return the options of a dataclass that differ from their defaults, such as ``-bound-iwbo``; "" if none does."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    text = ""
    for name in names:
        field, value = fields[name], getattr(config, name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if value != default:
            text += f"-{name}-{path_part(str(value))}"
    if len(text) <= MAX_LENGTH:
        return text
    return f"{text[: MAX_LENGTH - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def path_part(text: str) -> str:
    """Return a text as a part of the name of a folder: letters, digits, ``_``, ``.`` and ``-``."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")


def temperature_text(temperature: float | Sequence[float]) -> str:
    """Return a temperature as files are named by it: ``0.70``, or ``0.50-0.70-1.00`` for one a level."""
    values = [temperature] if isinstance(temperature, int | float) else temperature
    return "-".join(f"{value:.2f}" for value in values)
