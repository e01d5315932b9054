"""The sets of images that anomalies are scored on: where they lie, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glow.data.prepare.opening import Place
from glow.data.read.pipe import PIPE
from glow.data.read.reader import SplitReader
from glow.evaluation.facts import dataset_facts


@dataclass(frozen=True)
class ScoredPlaces:
    """Where the images lie.

    Attributes:
        data: Images to score.
        outliers: Sets of images that should score higher.
        reference: In-distribution images, whose mean likelihood is the typical one.
    """

    data: Place
    outliers: tuple[Place, ...]
    reference: Place

    @staticmethod
    def find(data: Place, outliers: Sequence[str], reference: str | None, trained_on: str) -> ScoredPlaces:
        """Find the sets that a user names.

        Args:
            data: Images to score.
            outliers: ``DATA[:SPLIT]`` of each set.
            reference: ``DATA[:SPLIT]``; None for the validation split of ``trained_on``.
            trained_on: The data set that the model was trained on.

        Raises:
            ValueError: when two scored sets are the same, or there is no reference.
        """
        places = tuple(Place.parse(text, "test") for text in outliers)
        if len({data, *places}) <= len(places):
            raise ValueError(f"outliers: {', '.join(outliers)} and the data name the same images twice")
        return ScoredPlaces(data, places, _reference(reference, trained_on))

    @property
    def scored(self) -> list[Place]:
        """The data and the outliers."""
        return [self.data, *self.outliers]

    @property
    def all(self) -> list[Place]:
        """The scored sets and the reference, each once."""
        return list(dict.fromkeys([*self.scored, self.reference]))

    def describe(
        self, readers: Mapping[Place, SplitReader], counts: Mapping[Place, int]
    ) -> dict[Place, dict[str, Any]]:
        """Return the entries of scores.json about each set.

        Args:
            readers: The images of each set.
            counts: How many of them are scored.
        """
        short = {
            place: place.name if place.split is None else f"{reader.dataset.name}:{place.split}"
            for place, reader in readers.items()
        }
        # Full locations, where two scored sets have the same short name.
        is_distinct = len({short[place] for place in self.scored}) == len(self.scored)
        names = short if is_distinct else {place: str(place) for place in readers}
        return {
            place: {**dataset_facts(reader, place.split), "name": names[place], "num_images": counts[place]}
            for place, reader in readers.items()
        }


def _reference(given: str | None, trained_on: str) -> Place:
    if given is not None:
        return Place.parse(given, "validation")
    # Commands are taken from the command line alone.
    place = None if trained_on.startswith(PIPE) else Place.of(trained_on, None, "validation")
    if place is None or place.split is None:
        raise ValueError(
            f"reference: {trained_on}, which the model was trained on, cannot be opened; name in-distribution images "
            "by --reference"
        )
    return place
