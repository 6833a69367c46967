"""Overrides of settings: `--set a.b=c`, presets and variants of a study."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from raycomp.config.bounds import MAX_DEPTH
from raycomp.config.renames import current_name, reject_both_names
from raycomp.errors import UserError, shown

OTHER_SOURCE = {"name": ("train", "validation", "text", "label"), "train": ("name", "folder")}
"""Settings of [task] that say where the text comes from -> settings that say otherwise."""


def apply_overrides(data: dict[str, Any], items: Sequence[str]) -> None:
    """Apply overrides in place, in order.

    Args:
        data: A job as nested dicts.
        items: Texts KEY=VALUE with a TOML value. A value that is not TOML is a text without quotes.

    Raises:
        UserError: An item is not KEY=VALUE, names no place in the job, or two items have the old and the
            new name of one setting.
    """
    reject_both_names(item.partition("=")[0].strip() for item in items)
    for item in items:
        _apply_override(data, item)


def _apply_override(data: dict[str, Any], item: str) -> None:
    key, separator, text = item.partition("=")
    key = key.strip()
    parts = key.split(".")
    if not separator or not all(parts) or len(parts) > MAX_DEPTH:
        raise UserError(
            f"--set {shown(item)!r} is not of the form KEY=VALUE. Write it like --set train.epochs=2."
        )
    put(data, key, _parse_value(text), f"--set {shown(item)!r}")


def _parse_value(text: str) -> Any:
    """Return a TOML value; text that is not TOML as it is, such as google-bert/bert-base-uncased."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):
        return text


def put(data: dict[str, Any], key: str, value: Any, source: str) -> None:
    """Set one setting in place.

    A new source of text removes the other source. A ready job file can thus be used with new data.

    Args:
        data: A job as nested dicts.
        key: Dotted name. `budget.NAME.key` and `budget.0.key` are settings of one [[budget]].
        value: Value of the setting.
        source: Where the setting comes from. It begins the message of an error.

    Raises:
        UserError: The name leads through a value that is not a section.
    """
    *sections, name = current_name(key).split(".")
    node: Any = data
    for section in sections:
        node = _enter(node, section, source)
    if not isinstance(node, dict):
        raise UserError(
            f"{source} sets a value in '{'.'.join(sections)}', which is not a section. Use an existing "
            "section."
        )

    node[name] = value
    if sections and sections[0] == "task":
        for other in OTHER_SOURCE.get(name, ()):
            node.pop(other, None)


def _enter(node: Any, name: str, source: str) -> Any:
    """Return the section or entry of a list that `name` names. A missing section is created."""
    if isinstance(node, dict):
        return node.setdefault(name, {})
    if not isinstance(node, list):
        raise UserError(
            f"{source} goes through '{name}', which is inside a value that is not a section. Use an "
            "existing section."
        )

    for entry in node:
        if isinstance(entry, dict) and entry.get("name") == name:
            return entry
    if name.isdecimal() and len(name) < 6 and int(name) < len(node):
        return node[int(name)]
    names = shown(", ".join(str(entry.get("name")) for entry in node if isinstance(entry, dict)))
    raise UserError(f"{source} names {name!r}, which does not exist. Use one of: {names}.")
