"""Processes agree: they compare what they are about to do, or follow the main process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

Decision = TypeVar("Decision")


def check_agreement(facts: Mapping[str, object]) -> None:
    """Check that all processes have the same facts (a collective).

    Raises:
        ValueError: on all processes; names a process that differs from process 0, and the fact.
    """
    everyone = gather_object([dict(facts)])
    for rank, theirs in enumerate(everyone):
        for name in sorted(everyone[0].keys() | theirs.keys()):
            if theirs.get(name) != everyone[0].get(name):
                raise ValueError(
                    f"process {rank} has another {name} than process 0: {theirs.get(name)}, not {everyone[0].get(name)}"
                )


def decided_by_main(decide: Callable[[], Decision], accelerator: Accelerator) -> Decision:
    """Let the main process decide, and return its decision on all processes (a collective)."""
    return broadcast_object_list([decide() if accelerator.is_main_process else None])[0]


def first_given(value: Decision | None) -> Decision | None:
    """Return what the first process has that has not None (a collective)."""
    return next((theirs for theirs in gather_object([value]) if theirs is not None), None)
