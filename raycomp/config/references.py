"""References to Python objects in settings: "module:name", imported by each process that needs one.

A job file can name a function or a class of the user's, such as `task.metric = "my_metrics:profit"`. The
text is a part of the job: job.json and the run's identity record it, and no object is ever pickled.
Running and planning a job import it. Reading and reporting a run do not, because its job.json may come
from somebody else; exporting and serving a run do only if the user allows it (`--allow-code`).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

from raycomp.errors import UserError, first_line

_NAME = r"[A-Za-z_]\w*"
_REFERENCE = re.compile(rf"{_NAME}(?:\.{_NAME})*:{_NAME}(?:\.{_NAME})*")


def is_reference(text: str) -> bool:
    """Return whether a text has the form "module:name"."""
    return _REFERENCE.fullmatch(text) is not None


def check_choice(value: str, choices: Sequence[str], role: str) -> str:
    """Return a setting that is one of several words or a reference.

    Args:
        value: Value of the setting.
        choices: Words that are allowed.
        role: Role of the object that a reference names, such as "a searcher"; the message names it.

    Raises:
        ValueError: The value is neither.
    """
    if value in choices or is_reference(value):
        return value
    words = ", ".join(repr(choice) for choice in choices)
    raise ValueError(f"it must be {words}, or {role} of yours by its module, such as 'my_module:MyName'")


def resolve_reference(text: str, setting: str) -> Any:
    """Import an object by its reference.

    Args:
        text: Reference, such as "my_metrics:profit".
        setting: Name of the setting that holds it; the message names it.

    Raises:
        UserError: The module cannot be imported, or it does not have the name.
    """
    module_name, _, qualified_name = text.partition(":")
    try:
        value = importlib.import_module(module_name)
        for name in qualified_name.split("."):
            value = getattr(value, name)
    except Exception as error:
        # The import runs the user's module, which may raise anything.
        raise UserError(
            f"Cannot import {setting} = {text!r}: {first_line(error)}. The module must be installed, or "
            "be next to the script or in the working directory, on every node."
        ) from error
    return value


def make_reference(value: Any, setting: str) -> str:
    """Return the reference of an object, and verify that the import gives this object again.

    Args:
        value: Function or class.
        setting: Name of the setting or argument; the message names it.

    Raises:
        UserError: Other processes cannot import the object: it is a lambda, or was defined inside a
            function, in a notebook or in the script that runs.
    """
    module_name = getattr(value, "__module__", None)
    qualified_name = getattr(value, "__qualname__", None)
    advice = (
        "The processes of a run import it by name: define it at the top level of a module, such as "
        "my_module.py next to your script or notebook, and import it from there."
    )
    if not module_name or not qualified_name:
        kind = type(value).__name__
        raise UserError(f"{setting} is a {kind}, not a function or a class with a name. {advice}")

    if module_name == "__main__":
        raise UserError(f"{setting} was defined in the script or notebook that runs now. {advice}")

    text = f"{module_name}:{qualified_name}"
    if not is_reference(text):
        raise UserError(f"{setting} is a lambda, or was defined inside a function. {advice}")
    if resolve_reference(text, setting) is not value:
        raise UserError(f"{setting} is not the object that {text} is after an import. {advice}")
    return text
