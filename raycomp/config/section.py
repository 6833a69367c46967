"""What every table of a job file is, and the checks that several share."""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Section(BaseModel):
    """A table of the job file: unknown keys are errors, values are never coerced between types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class MethodSettings(Section):
    """The section of one compression method; subclasses say what the job file must know of it.

    Attributes:
        method: Name of the method in `run.methods`, and of its section.
        title: Name of the method in tables for people.
        needs_budget: Whether a job with this method needs at least one [[budget]].
        shared_sections: Sections of the job file that only some methods read, such as "augment".
        identity_defaults: Settings that joined later, with the value that leaves the identity of a run
            as it was before they joined.
    """

    method: ClassVar[str]
    title: ClassVar[str]
    needs_budget: ClassVar[bool] = True
    shared_sections: ClassVar[tuple[str, ...]] = ()
    identity_defaults: ClassVar[dict[str, Any]] = {}


def plain_name(value: str) -> str:
    """Return a name that is safe as a folder, or raise ValueError."""
    if not NAME.fullmatch(value):
        raise ValueError("must be 1 to 64 letters, digits, '-' or '_', beginning with a letter or digit")
    return value


def plain_seeds(value: list[int]) -> list[int]:
    """Return seeds that are of use, or raise ValueError."""
    if len(set(value)) != len(value) or not all(0 <= v < 2**31 for v in value):
        raise ValueError("must be whole numbers from 0 up to 2,147,483,647, each once")
    return value


_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_QUANTITY = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(x|[kKmMbBgGtT]?)(\s+encoder)?")


def parse_quantity(raw: float | int | str, full: float) -> float:
    """Read 40e6, "12M", "2G" or "0.5x" (relative to `full`); raise ValueError when it is none."""
    if isinstance(raw, str):
        match = _QUANTITY.fullmatch(raw.strip())
        if match is None:
            raise ValueError(f'{raw!r} is no quantity; allowed: 40e6, "12M", "2G", "0.5x"')
        number, unit, _ = match.groups()
        value = float(number) * (full if unit == "x" else _SUFFIX[unit.lower()])
    else:
        value = float(raw) if abs(raw) < 1e300 else math.inf
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{raw!r} is not a finite number above 0")
    return value
