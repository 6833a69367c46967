"""Settings that have a new name: old job files still work, and identities do not change."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from raycomp.errors import UserError

OLD_NAMES = {
    "run.tracking": "run.live",
    "train.sampler_sync_steps": "train.block",
    "train.exploration_update": "train.explored",
    "train.pairing": "train.pairs",
    "search.shared_fraction": "search.opening",
    "augment.consistent_pairs": "augment.together",
}
"""Each renamed setting and its old name."""

_NEW_NAMES = {old: new for new, old in OLD_NAMES.items()}
_noted: set[str] = set()


def current_name(key: str) -> str:
    """Return the current name of a setting, and tell the user once if `key` is an old name.

    Args:
        key: Dotted name, such as "train.block".
    """
    new = _NEW_NAMES.get(key, key)
    if new != key and key not in _noted:
        _noted.add(key)
        logging.getLogger("raycomp").warning(
            "Note: '%s' is now called '%s'; the old name still works.", key, new
        )
    return new


def current_names(data: Any, *, note: bool = True) -> Any:
    """Return the sections of a job with the current names of all settings.

    Args:
        data: Sections as nested dicts, unchecked. It is not changed. Other values are returned as they
            are: the schema names them.
        note: Whether to tell the user about old names. False for a file that raycomp wrote itself.

    Raises:
        UserError: A setting has both its old and its new name.
    """
    if not isinstance(data, dict):
        return data
    renamed = dict(data)
    for new, old in OLD_NAMES.items():
        section, new_key = new.split(".")
        old_key = old.rpartition(".")[2]
        settings = renamed.get(section)
        if not isinstance(settings, dict) or old_key not in settings:
            continue

        reject_both_names(f"{section}.{key}" for key in settings)
        if note:
            current_name(old)
        renamed[section] = {new_key if k == old_key else k: v for k, v in settings.items()}
    return renamed


def reject_both_names(keys: Iterable[str]) -> None:
    """Raise UserError if dotted keys contain both names of one setting."""
    names = set(keys)
    for new, old in OLD_NAMES.items():
        if {new, old} <= names:
            raise UserError(
                f"'{old}' and '{new}' are the old and the new name of one setting. Remove '{old}'."
            )


def original_names(data: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of a job with the names that settings had first.

    Hashes cover these names. A renamed setting therefore does not rename the runs that exist.
    """
    renamed = dict(data)
    for new, old in OLD_NAMES.items():
        section, new_key = new.split(".")
        old_key = old.rpartition(".")[2]
        if section in renamed:
            settings = renamed[section]
            renamed[section] = {old_key if k == new_key else k: v for k, v in settings.items()}
    return renamed
