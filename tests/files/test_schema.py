"""Values of files have the types that are declared."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from glow.files.schema import from_plain


@dataclass(frozen=True)
class Part:
    size: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Whole:
    parts: list[Part]
    rate: float = 1.0
    kind: Literal["a", "b"] | None = None
    by_name: dict[str, Part] = field(default_factory=dict)
    shape: tuple[int, int] | int | None = None
    is_on: bool = False
    free: Any = None


PLAIN = {
    "parts": [{"size": 1, "names": ["x"]}],
    "rate": 2,
    "kind": "b",
    "by_name": {"p": {"size": 3}},
    "shape": [1, 2],
    "is_on": True,
    "free": [{}],
}


def test_plain_values_become_dataclasses():
    whole = from_plain(Whole, PLAIN)
    assert whole == Whole([Part(1, ("x",))], 2.0, "b", {"p": Part(3)}, (1, 2), True, [{}])
    assert isinstance(whole.rate, float)
    assert from_plain(Whole, {"parts": []}) == Whole([])
    assert from_plain(Whole, {**PLAIN, "shape": 4}).shape == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": 3}, "parts: 3 is not allowed; give a list, each a mapping"),
        ({"parts": [3]}, r"parts\[0\]: 3 is not allowed; give a mapping"),
        ({"parts": [{"size": True}]}, r"parts\[0\]\.size: true is not allowed; give an integer"),
        ({"parts": [{"size": 1.0}]}, r"parts\[0\]\.size: 1\.0 is not allowed; give an integer"),
        ({"parts": [{"size": "1"}]}, r"parts\[0\]\.size: '1' is not allowed; give an integer"),
        ({"parts": [{}]}, r"parts\[0\]\.size is missing"),
        ({"parts": [{"size": 1, "sise": 2}]}, "Part has no field sise; its fields are size, names"),
        ({"parts": [{1: 2, "size": 1}]}, "Part has no field 1"),
        ({"rate": "fast"}, "rate: 'fast' is not allowed; give a number"),
        ({"rate": 10**400}, "rate: 1000.* is not allowed; give a number"),
        ({"rate": None}, "rate: None is not allowed; give a number"),
        ({"kind": "c"}, "kind: 'c' is not allowed; give one of a, b"),
        ({"kind": []}, r"kind: \[\] is not allowed; give one of a, b"),
        ({"by_name": {"p": 1}}, r"by_name\.p: 1 is not allowed; give a mapping"),
        ({"by_name": {1: {"size": 1}}}, "by_name: .* is not allowed; give a mapping"),
        ({"shape": [1, 2, 3]}, r"shape: \[1, 2, 3\] is not allowed; give 2 values, each an integer or an integer"),
        ({"is_on": 1}, "is_on: 1 is not allowed; give true or false"),
    ],
)
def test_other_types_are_errors_that_name_the_value(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        from_plain(Whole, {**PLAIN, **change})


@pytest.mark.parametrize("value", [None, 3, "text", [], [1], True, 1.5])
def test_what_is_no_mapping_is_no_dataclass(value):
    with pytest.raises(ValueError, match="is not allowed; give a mapping of keys to values"):
        from_plain(Whole, value)


def test_round_trip():
    whole = from_plain(Whole, PLAIN)
    assert from_plain(Whole, dataclasses.asdict(whole)) == whole
