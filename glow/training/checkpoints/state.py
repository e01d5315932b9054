"""What a checkpoint knows besides its tensors and its configuration: the content of state.json."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from glow.config import require
from glow.data.read.order import VERSIONS
from glow.files.reading import parse_json
from glow.files.schema import from_plain

FORMAT = 2
"""1 has no checksum of its own."""
MAX_STEP = 99_999_999
CHECKSUM = "state_sha256"


@dataclass(frozen=True, kw_only=True)
class State:
    """Step, position in the data, and other plain values that resuming needs.

    Attributes:
        step: Optimiser steps made.
        images_seen: Position in the sequence of training images.
        validation_bits_per_dim: Score of the last validation; None if there was none at this step.
        losses_since_log: Losses that the next line of metrics.jsonl averages.
        num_overflows: Steps without an update, in half precision.
        loss_scale: State of the loss scale, in half precision.
        num_skipped: Images that could not be read.
        skipped_since_log: What was wrong with those that no line of metrics.jsonl names yet.
        data_sha256: Checksum of the training data.
        classes: Names of the classes of a class-conditional model.
        order: Version of the order of the training images.
        num_processes: Processes of the training.
        init_sha256: Checksum of the weights that the training started from; None for random ones.
        sha256: Checksums of the other files of the checkpoint, by name.
    """

    step: int
    images_seen: int
    validation_bits_per_dim: float | None = None
    losses_since_log: list[float] = field(default_factory=list)
    num_overflows: int = 0
    loss_scale: dict[str, float] | None = None
    num_skipped: int = 0
    skipped_since_log: list[str] = field(default_factory=list)
    data_sha256: str | None = None
    classes: tuple[str, ...] | None = None
    order: int = 1
    num_processes: int = 1
    init_sha256: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check ranges."""
        require(0 <= self.step <= MAX_STEP, "step", self.step, f"give 0 to {MAX_STEP}")
        for name in ("images_seen", "num_overflows", "num_skipped"):
            require(0 <= getattr(self, name) < 2**63, name, getattr(self, name), "give 0 or more")
        require(1 <= self.num_processes < 2**31, "num_processes", self.num_processes, "give 1 or more")
        require(self.order in VERSIONS, "order", self.order, f"give one of {', '.join(map(str, VERSIONS))}")
        score = self.validation_bits_per_dim
        require(score is None or math.isfinite(score), "validation_bits_per_dim", score, "give a finite number")
        finite = all(math.isfinite(loss) for loss in self.losses_since_log)
        require(finite, "losses_since_log", self.losses_since_log, "give finite numbers")
        if self.loss_scale is not None:
            is_whole = self.loss_scale.keys() == {"scale", "steps_since_change"}
            is_whole = is_whole and all(0 <= value < math.inf for value in self.loss_scale.values())
            require(is_whole, "loss_scale", self.loss_scale, "give scale and steps_since_change, each 0 or more")
        for name in self.sha256:
            require(bool(re.fullmatch(r"\w[\w.-]*", name)), "sha256", name, "give names of files of the checkpoint")


def state_text(state: State) -> str:
    """Return the content of state.json, with its own checksum."""
    values = {"format": FORMAT, **asdict(state)}
    return json.dumps({**values, CHECKSUM: _checksum(values)}, indent=1) + "\n"


def parse_state(content: bytes, path: Path) -> State:
    """Return what ``state_text`` wrote, or an earlier version, which had no checksum.

    Raises:
        ValueError: names ``path``; when it is damaged, changed, or written by a later version.
    """
    values = parse_json(content, str(path))
    try:
        if not isinstance(values, dict) or "sha256" not in values:
            raise ValueError("not the state of a checkpoint")
        checksum, version = values.pop(CHECKSUM, None), values.get("format", 1)
        if type(version) is int and version > FORMAT:
            raise ValueError(f"written by a later version (format {version}; this version reads 1 to {FORMAT})")
        if (version, checksum) != (1, None) and (version != FORMAT or checksum != _checksum(values)):
            raise ValueError("damaged or changed: its checksum is not that of its content")
        return from_plain(State, {key: value for key, value in values.items() if key != "format"})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
