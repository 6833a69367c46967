"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can mend: what was given, what is allowed, what to do.

    The command line prints the message alone, without a stack trace, and ends with exit code 2.
    """
