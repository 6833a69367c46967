"""The base classes of the sections of a job file, and the checks that several sections share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
LARGEST_SEED = 2**31 - 1


class Section(BaseModel):
    """A section of the job file.

    Unknown settings are errors, and values are not converted from one type to another.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class MethodSettings(Section):
    """The section of one compression method. Subclasses declare what the job file must know about it.

    Attributes:
        method: Name of the method in `run.methods`, and of its section.
        title: Name of the method in tables for people.
        length_keys: Settings of the section that say how long the method trains. They are multiplied
            together for `run.equal_compute` and `run.equal_epochs`.
        needs_budget: Whether a job with this method needs at least one [[budget]].
        shared_sections: Sections of the job file that only some methods read, such as "augment"; see
            `reads`.
        identity_defaults: Settings that joined later, with the value that leaves the identity of a run
            as it was before they joined.
    """

    method: ClassVar[str]
    title: ClassVar[str]
    length_keys: ClassVar[tuple[str, ...]] = ()
    needs_budget: ClassVar[bool] = True
    shared_sections: ClassVar[tuple[str, ...]] = ()
    identity_defaults: ClassVar[dict[str, Any]] = {}

    def reads(self, section: str) -> bool:
        """Return whether the method reads one of its `shared_sections` with these settings."""
        return section in self.shared_sections

    def identity_values(self) -> dict[str, Any]:
        """Return settings that the identity of a run has with another value than the job."""
        return {}


def choices(summary: str, meanings: dict[str, str]) -> str:
    """Return the description of a setting whose values are named: a summary and a line per value.

    Args:
        summary: Meaning of the setting.
        meanings: Value -> what it does.
    """
    lines = [f"- `{value}`: {meaning}" for value, meaning in meanings.items()]
    return "\n".join([summary, *lines])


def plain_name(value: str) -> str:
    """Return a name that can be the name of a directory.

    Raises:
        ValueError: The name has other characters, or is too long.
    """
    if not NAME.fullmatch(value):
        raise ValueError(
            "it must have 1 to 64 letters, digits, '-' or '_', and begin with a letter or digit"
        )
    return value


def plain_seeds(value: list[int]) -> list[int]:
    """Return seeds without duplicates.

    Raises:
        ValueError: A seed is negative, too large, or occurs twice.
    """
    is_valid = all(0 <= seed <= LARGEST_SEED for seed in value)
    if not is_valid or find_duplicates(value):
        raise ValueError(f"it must be whole numbers from 0 to {LARGEST_SEED:,} without duplicates")
    return value


def find_duplicates(values: Iterable[Any]) -> list[Any]:
    """Return the values that occur more than once, sorted."""
    return sorted(value for value, count in Counter(values).items() if count > 1)
