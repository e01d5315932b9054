"""Limits on what a file may ask for, because it may be a stranger's. Each one can be raised."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """The largest number that is accepted.

    Attributes:
        variable: Environment variable that sets another limit.
        default: The limit without it.
        unit: What is counted.
    """

    variable: str
    default: int
    unit: str

    @property
    def value(self) -> int:
        """The limit of this process.

        Raises:
            ValueError: when the environment variable is no whole number.
        """
        text = os.environ.get(self.variable, str(self.default))
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ValueError(f"{self.variable}: {text!r} is not allowed; give a whole number")
        return int(text)

    def check(self, name: str, count: int) -> None:
        """Raise a ValueError that names the limit and how to raise it, if ``count`` is above it."""
        if count > self.value:
            raise ValueError(
                f"{name}: {count:,} {self.unit}, but {self.value:,} are the limit; set {self.variable} to allow more"
            )


# PyYAML takes a second for 50 kB.
YAML_BYTES = Limit("GLOW_MAX_YAML_BYTES", 2**16, "bytes")
JSON_BYTES = Limit("GLOW_MAX_JSON_BYTES", 2**24, "bytes")
METRICS_BYTES = Limit("GLOW_MAX_METRICS_BYTES", 2**28, "bytes")
INDEX_BYTES = Limit("GLOW_MAX_INDEX_BYTES", 2**27, "bytes")
"""Of the index of a shard; a sample takes about 80."""
SAMPLE_BYTES = Limit("GLOW_MAX_SAMPLE_BYTES", 2**29, "bytes")
"""Of one image file in a shard, a folder or an archive."""
DIMS = Limit("GLOW_MAX_DIMS", 2**22, "dimensions")
"""Of one image: channels x height x width."""
POINTS = Limit("GLOW_MAX_POINTS", 10**7, "vectors")
"""To draw from a density."""
