"""Inputs made from good ones: bytes that are changed, values that are replaced."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "0.5x", "../x", "glue/sst2", "nan", "\x00", "\ud800", "x" * 5000, "{}"]),
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([0, -1, 1, 2**31, 2**53, 2**63, 10**30, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def mutated_bytes(draw: st.DrawFn, data: bytes, head: int | None = None) -> bytes:
    """Change, cut, repeat or insert bytes at a few places, within the first `head` if given."""
    raw = bytearray(data)
    for _ in range(draw(st.integers(1, 5))):
        end = min(len(raw), head or len(raw))
        at = draw(st.integers(0, max(0, end - 1)))
        how = draw(st.sampled_from(["set", "cut", "insert", "repeat", "number"]))
        if how == "set" and raw:
            raw[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del raw[at : at + draw(st.integers(1, 40))]
        elif how == "insert":
            raw[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif how == "repeat":
            raw[at:at] = raw[at : at + 16] * draw(st.integers(1, 8))
        else:
            raw[at : at + 4] = draw(st.sampled_from([b"\xff" * 4, b"\x00" * 4, b"\xff\xff\xff\x7f"]))
    return bytes(raw)


@st.composite
def mutated_value(draw: st.DrawFn, value: Any) -> Any:
    """Replace, remove or add values at a few places of a nested value."""
    made = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        node = made
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], (dict, list)) and node[key] and draw(st.booleans()):
                node = node[key]
                continue
            how = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
            if how == "remove":
                del node[key]
            elif how == "add" and isinstance(node, dict):
                node[draw(st.one_of(st.text(max_size=8), st.sampled_from(keys)))] = draw(VALUES)
            else:
                node[key] = draw(VALUES)
            break
    return made


def toml(value: Any) -> str:
    """Write a nested dict as TOML, as far as it can be written; what cannot is left wrong."""
    lines = []
    for key, part in value.items():
        for table in part if isinstance(part, list) else [part]:
            name = json.dumps(str(key), ensure_ascii=False)
            if not isinstance(table, dict):
                lines.insert(0, f"{name} = {_inline(table)}")
                continue
            lines.append(f"[[{name}]]" if isinstance(part, list) else f"[{name}]")
            lines += [
                f"{json.dumps(str(k), ensure_ascii=False)} = {_inline(v)}" for k, v in table.items()
            ]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(k), ensure_ascii=False)} = {_inline(v)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
