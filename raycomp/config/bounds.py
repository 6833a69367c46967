"""Limits on the values of a job file. They keep the checks fast and the messages readable."""

from __future__ import annotations

from typing import Any

from raycomp.errors import UserError, shown

MAX_TEXT = 4096
MAX_DEPTH = 8
MAX_INTEGER = 2**53
"""The largest integer up to which a float and JSON are exact."""


def reject_extreme_values(data: Any) -> None:
    """Check nested dicts and lists.

    Raises:
        UserError: A value is nested too deeply, is too long or too large, or is not text.
    """
    pending: list[tuple[tuple[str, ...], Any]] = [((), data)]
    while pending:
        location, value = pending.pop()
        name = shown(".".join(location))

        if isinstance(value, (dict, list)):
            if len(location) >= MAX_DEPTH:
                raise UserError(
                    f"Setting '{name}' is nested deeper than {MAX_DEPTH} levels, and settings of raycomp "
                    "are not. Remove it."
                )
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            pending += [((*location, str(key)), entry) for key, entry in entries]
        elif isinstance(value, str):
            _check_text(name, value)
        elif isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise UserError(f"Setting '{name}' is larger than {MAX_INTEGER:,}. Use a smaller number.")


def _check_text(name: str, value: str) -> None:
    if len(value) > MAX_TEXT:
        raise UserError(
            f"Setting '{name}' has {len(value):,} characters. Use at most {MAX_TEXT:,} characters."
        )
    if "\x00" in value or not _is_unicode(value):
        raise UserError(
            f"Setting '{name}' = {shown(repr(value))} has an invalid character. Remove the character."
        )


def _is_unicode(text: str) -> bool:
    """Return whether a text can be encoded. JSON can contain half of a surrogate pair, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
