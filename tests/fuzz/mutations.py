"""Changes that damage or an attacker would make to a file: to its bytes, or to the values in it."""

import copy
import json

from hypothesis import strategies as st

ODD_NUMBERS = (0, -1, 1.5, 2**31, 2**63, 10**15, 10**30, -(10**400), float("nan"), float("inf"), 1e308, -0.0)
ODD_TEXTS = (
    "",
    " ",
    "0",
    "-1",
    "true",
    "null",
    "../../etc/passwd",
    "/",
    "a\nb",
    "\x1b[2J",
    "\ud800",
    "=1+1",
    "x" * 5000,
)


def nested(depth):
    """A list in a list in a list."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


ODD_VALUES = [*ODD_NUMBERS, *ODD_TEXTS, True, False, None, [], {}, [None], {"a": 1}, nested(900), [0] * 5000]


@st.composite
def changed_bytes(draw, content):
    """The bytes of a file with one to three changes: a flipped bit, a cut, an insertion, a repetition, zeros."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(1, 40))
        match draw(st.sampled_from(["flip", "cut", "remove", "insert", "repeat", "zeros"])):
            case "flip" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del content[place:]
            case "remove":
                del content[place : place + length]
            case "insert":
                content[place:place] = draw(st.binary(min_size=1, max_size=length))
            case "repeat":
                content[place:place] = content[place : place + length]
            case "zeros":
                content[place : place + length] = bytes(len(content[place : place + length]))
    return bytes(content)


def places_in(value, path=()):
    """Yield the paths to all values that stand in lists and mappings."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places_in(item, (*path, key))


def holder_of(value, path):
    """The list or mapping that holds the value at a path."""
    for key in path[:-1]:
        value = value[key]
    return value


@st.composite
def changed_values(draw, value):
    """A plain value with one or two changes: a value replaced, removed, renamed or doubled; or another value alone."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        places = [*places_in(value)]
        if not places or draw(st.integers(0, 30)) == 0:
            return draw(st.sampled_from(ODD_VALUES))
        path = draw(st.sampled_from(places))
        holder, key = holder_of(value, path), path[-1]
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "double", "near"])):
            case "replace":
                holder[key] = draw(st.sampled_from(ODD_VALUES))
            case "remove":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from([f"{key}s", "", "a\nb", key.upper()]))] = holder.pop(key)
            case "double" if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case _ if type(holder[key]) in (int, float):
                holder[key] += draw(st.sampled_from([-1, 1, 0.5]))
            case _:
                holder[key] = [holder[key]]
    return value


@st.composite
def changed_json(draw, content):
    """The bytes of a JSON file: changed in its values, with a key twice, or changed as bytes."""
    match draw(st.sampled_from(["values", "values", "values", "twice", "bytes"])):
        case "values":
            return json.dumps(draw(changed_values(json.loads(content)))).encode(errors="replace")
        case "twice":
            return content.replace(b"{", b'{"name": 1, "step": 2, "name": 1, ', 1)
    return draw(changed_bytes(content))
