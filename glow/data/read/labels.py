"""Labels of samples that come with files beside their images: the texts that become names of classes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

KINDS = "cls, json:KEY, folder or none"
MAX_LABEL_BYTES = 200
MAX_JSON_BYTES = 2**20


@dataclass(frozen=True)
class LabelRule:
    """Where the label of a sample is: a member ``cls``, a key of the member ``json``, its folder, or nowhere.

    ``kind`` is None where the samples decide: ``cls`` if they have it, else no labels.
    """

    kind: str | None = None
    key: tuple[str, ...] = ()

    @staticmethod
    def parse(text: str | None) -> LabelRule:
        """Parse the option ``label``.

        Raises:
            ValueError: when it is none of the allowed texts.
        """
        if text is None or text in ("cls", "folder", "none"):
            return LabelRule(text)
        kind, _, key = text.partition(":")
        if kind != "json" or not all(key.split(".")):
            raise ValueError(f"label: {text!r} is not allowed; choose {KINDS}")
        return LabelRule("json", tuple(key.split(".")))

    @property
    def member(self) -> str | None:
        """Extension of the member that is read, or None."""
        return {None: "cls", "cls": "cls", "json": "json"}.get(self.kind)

    def find(self, name: str, content: bytes) -> str:
        """Return the label in the content of that member.

        Args:
            name: Name of the sample, for messages.
            content: The content.

        Raises:
            ValueError: when there is no label in it; names the sample.
        """
        if self.kind == "json":
            return checked_label(name, _value_of(name, content, self.key))
        try:
            return checked_label(name, content.decode().strip())
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: its label is not a text") from error


def class_names(labels: Sequence[str]) -> list[str]:
    """Return the name of the class of each label; whole numbers get one width, so that they sort as numbers."""
    if not all(re.fullmatch("[0-9]+", label) for label in labels):
        return list(labels)
    width = len(str(max(map(int, labels))))
    return [f"{int(label):0{width}d}" for label in labels]


def _value_of(name: str, content: bytes, key: Sequence[str]) -> Any:
    """Return the value of a key of a JSON text; the parts of ``key`` name mappings within mappings."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: its .json cannot be read: {error}") from error
    for part in key:
        if not isinstance(value, dict) or part not in value:
            known = ", ".join(sorted(map(str, value))[:20]) if isinstance(value, dict) else "no keys"
            raise ValueError(f"{name}: its .json has no key {'.'.join(key)!r}; it has {known}")
        value = value[part]
    return value


def checked_label(name: str, value: Any) -> str:
    """Return a label as a text.

    Args:
        name: Name of the sample, for messages.
        value: What was found.

    Raises:
        ValueError: for numbers that are no class, texts that are empty or long, and other values.
    """
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    shown = repr(value)[:60]
    if not text or len(text.encode(errors="replace")) > MAX_LABEL_BYTES or not text.isprintable():
        raise ValueError(f"{name}: its label is {shown}; a label is a whole number or a short text")
    if re.fullmatch(r"[+-]?(nan|inf(inity)?|[0-9.]+(e[+-]?[0-9]+)?)", text, re.IGNORECASE) and not re.fullmatch(
        "[0-9]{1,9}", text
    ):
        raise ValueError(f"{name}: its label is {shown}; a class number is whole, 0 or more, and has at most 9 digits")
    return text
