"""The one exception that a user is meant to read, and text from outside as its message may hold it."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can mend: what was given, what is allowed, what to do.

    The command line prints the message alone, without a stack trace, and ends with exit code 2.
    """


def shown(text: str, limit: int = 200) -> str:
    """Return text from outside as a message may hold it: cut, on one line, no control characters."""
    cut = text if len(text) <= limit else f"{text[:limit]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def first_line(error: BaseException) -> str:
    """Return the first line of what another library says, or the error's name where it says nothing."""
    lines = str(error).strip().splitlines()
    return shown(lines[0] if lines else repr(error), 300)
