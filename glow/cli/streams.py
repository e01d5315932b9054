"""What a stage prints: safe for the terminal, and never a reason to fail."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, TextIO

CURSOR_UP = "\x1b[A"  # of nested progress bars


def escape(text: str, kept: str = "") -> str:
    """Return text with what is not printable escaped, since names may hold characters that steer a terminal."""
    return "".join(
        character if character.isprintable() or character in kept else _escaped(character) for character in text
    )


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a name that is not in the encoding of this system
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


class Printed:
    """A text stream that escapes what cannot be printed, and forgets what nobody reads any more."""

    def __init__(self, stream: TextIO, kept: str, sequences: tuple[str, ...] = ()) -> None:
        self._stream = stream
        self._kept = kept
        self._sequences = re.compile(f"({'|'.join(map(re.escape, sequences))})") if sequences else None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text; a reader that went away is no error."""
        parts = self._sequences.split(text) if self._sequences else [text]
        safe = "".join(part if number % 2 else escape(part, self._kept) for number, part in enumerate(parts))
        try:
            self._stream.write(safe)
        except OSError:
            self._lose()
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Flush; a reader that went away is no error."""
        try:
            self._stream.flush()
        except OSError:
            self._lose()

    def _lose(self) -> None:
        """Send what is still to come to nowhere, for this program and for those that it starts."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def guard() -> None:
    """Guard the standard output and error of this process."""
    for name, kept, sequences in (("stdout", "\n\t", ()), ("stderr", "\n\t\r", (CURSOR_UP,))):
        stream = getattr(sys, name)
        if stream is None:  # closed; a file opened later must not take its place
            stream = open(os.devnull, "w")  # noqa: PTH123, SIM115
        if not isinstance(stream, Printed):
            setattr(sys, name, Printed(stream, kept, sequences))
