"""Processes that are to do the same tell each other what they are about to do."""

from __future__ import annotations

from collections.abc import Mapping

from accelerate.utils import gather_object


def check_agreement(facts: Mapping[str, object]) -> None:
    """Raise on all processes when one of them tells another fact than process 0, or more or fewer (a collective).

    Raises:
        ValueError: names the process and the fact.
    """
    everyone = gather_object([dict(facts)])
    for rank, theirs in enumerate(everyone):
        for name in sorted(everyone[0].keys() | theirs.keys()):
            if theirs.get(name) != everyone[0].get(name):
                raise ValueError(
                    f"process {rank} has another {name} than process 0: {theirs.get(name)}, not {everyone[0].get(name)}"
                )
