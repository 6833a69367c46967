"""Labels that are numbers for people but not for programs: 0,5 and 15% and $10 and 3/5, and dates."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SIGN = r"[-+\u2212]?"
_DIGITS = r"(?:[0-9]{1,3}(?:[,.' \u00a0\u202f][0-9]{3})+|[0-9]+)?"
_NUMBER = rf"{_SIGN}{_DIGITS}(?:[.,]?[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_CURRENCY = r"(?:[$\u20ac\u00a3\u00a5\u20b9]|USD|EUR|GBP|CHF|JPY)"

DECIMAL_COMMA = "a decimal comma"
DATE = "a date"
"""Forms that callers treat in another way than the others."""

# Form -> pattern of a label without outer blanks, which has a digit.
_FORMS: dict[str, re.Pattern[str]] = {
    "marks of thousands": re.compile(
        rf"{_SIGN}[1-9][0-9]{{0,2}}(?:[,.' \u00a0\u202f][0-9]{{3}})+(?:[.,][0-9]+)?"
    ),
    DECIMAL_COMMA: re.compile(rf"{_SIGN}[0-9]*,[0-9]+(?:[eE][-+]?[0-9]+)?"),
    "a percent sign": re.compile(rf"{_NUMBER}\s?[%\u2030]"),
    "a currency": re.compile(rf"{_SIGN}{_CURRENCY}\s?{_NUMBER}|{_NUMBER}\s?{_CURRENCY}"),
    "a fraction bar": re.compile(r"[-+]?[0-9]+(?:[.,][0-9]+)?\s?/\s?[0-9]+"),
    DATE: re.compile(
        r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}"
        r"|[0-9]{1,2}[./-][0-9]{1,2}[./-][0-9]{4})(?:[T ][0-9]{1,2}:[0-9]{2}.*)?"
    ),
}


def find_form(label: str) -> str | None:
    """Return how a label writes a number or a date that is not a number of Python, or None."""
    text = label.strip()
    if not any(sign.isdecimal() for sign in text):
        return None
    return next((form for form, pattern in _FORMS.items() if pattern.fullmatch(text)), None)


def are_codes(labels: Iterable[str]) -> bool:
    """Return whether numbers with a comma are codes: whole, or two of them are the same number.

    Args:
        labels: Different labels. Where one of them has another sign than a comma, they are not codes.
    """
    try:
        values = [float(label.replace(",", ".").replace("\u2212", "-")) for label in labels]
    except ValueError:
        return False
    return all(value.is_integer() for value in values) or len(set(values)) < len(values)
