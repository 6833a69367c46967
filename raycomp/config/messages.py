"""Messages about a job file that does not fit the schema."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from raycomp.config.job import Job
from raycomp.errors import shown
from raycomp.methods.registry import method_names

MAX_LINES = 20

MAX_SUGGESTIONS = 3
"""Sections that a message suggests for a setting without its section."""

CLOSE = 0.7
"""Similarity from which on a section is suggested for a mistyped one with an unknown setting."""

_UNION_MEMBERS = {"int", "float", "str", "list[float]", "list[int]", "constrained-float"}
"""Names that pydantic puts into the location of a fault, one for each type that a value can have."""


def describe_errors(error: ValidationError, data: dict[str, Any], schema: type[BaseModel]) -> str:
    """Return a message with a line for each fault: what is wrong, and what is allowed.

    Args:
        error: Error of the validation.
        data: What was validated.
        schema: Schema that it was validated against.
    """
    faults = [_Fault(dict(entry), data, schema) for entry in error.errors()]
    lines = _merge_alternatives(faults)
    if len(lines) > MAX_LINES:
        hidden = len(lines) - MAX_LINES
        lines = [*lines[:MAX_LINES], f"There are {hidden} more errors."]
    return "\n".join(lines)


def nearest_name(word: str, names: Iterable[str]) -> str | None:
    """Return the name that is most similar to a word, or None if none is similar."""
    matches = difflib.get_close_matches(word, list(names), n=1, cutoff=0.5)
    return matches[0] if matches else None


class _Fault:
    """One fault of a validation.

    Attributes:
        subject: What the fault is about, such as "Setting 'train.epochs' = 'x' is not allowed".
        reason: What is allowed.
    """

    def __init__(self, entry: dict[str, Any], data: dict[str, Any], schema: type[BaseModel]) -> None:
        location = tuple(key for key in entry["loc"] if not _is_union_member(key))
        name = shown(_dotted_name(location, data))
        value = entry.get("input")

        if entry["type"] == "extra_forbidden":
            self.subject, self.reason = _describe_unknown(location, name, value, schema)
        elif entry["type"] == "missing":
            kind = "section" if len(location) == 1 else "setting"
            self.subject = f"Missing {kind} '{name}'"
            self.reason = "Add it to the job file; docs/job-file.md lists all settings"
        elif entry["type"] == "list_type" and isinstance(value, dict):
            self.subject = f"Section '{name}' must be a list of sections"
            self.reason = f"Write [[{name}]] in place of [{name}]"
        elif not isinstance(value, (dict, BaseModel)):
            self.subject = f"Setting '{name}' = {shown(repr(value))} is not allowed"
            self.reason = _message(entry)
        elif name:
            self.subject = f"Section '{name}' {_message(entry)}"
            self.reason = ""
        else:
            self.subject = _message(entry)
            self.reason = ""


def _is_union_member(key: str | int) -> bool:
    """Return whether a part of a location names one type of a setting that can have several."""
    return key in _UNION_MEMBERS or str(key).startswith("literal[")


def _merge_alternatives(faults: list[_Fault]) -> list[str]:
    """Return a line for each subject. A value that can have several types has a fault for each type."""
    reasons: dict[str, list[str]] = {}
    for fault in faults:
        alternatives = reasons.setdefault(fault.subject, [])
        if fault.reason and fault.reason not in alternatives:
            alternatives.append(fault.reason)

    lines = []
    for subject, alternatives in reasons.items():
        if not alternatives:
            lines.append(f"{subject}.")
        elif subject.endswith("is not allowed"):
            lines.append(f"{subject}: {', or '.join(alternatives)}.")
        else:
            lines.append(f"{subject}. {' '.join(alternatives)}.")
    return lines


def _message(entry: dict[str, Any]) -> str:
    """Return pydantic's message as the end of a sentence."""
    message = str(entry["msg"]).removeprefix("Value error, ")
    value = entry.get("input")
    if entry["type"] == "list_type" and isinstance(value, str):
        message = f"it must be a list, such as [{json.dumps(value, ensure_ascii=False)}]"
    if entry["type"] == "string_type":
        message = "it must be text in quotes"
    if entry["type"] == "model_type":
        message = "it must be a section with settings"
    if message.startswith("Input should be "):
        message = message.replace("Input should be ", "it must be ", 1)
    return shown(message, 1000)


def _describe_unknown(
    location: tuple[Any, ...], name: str, value: Any, root: type[BaseModel]
) -> tuple[str, str]:
    """Return subject and reason for a setting or section that the schema does not have."""
    model, section = _find_model(location, root)
    names = list(model.model_fields)
    if issubclass(model, Job):
        names += [method for method in method_names() if method not in names]
    word = str(location[-1])
    if model is root and word in names and issubclass(model, Job):
        return (
            f"Section '{shown(word)}' is not allowed",
            f"method {word} lacks settings of its own; remove the section",
        )

    if model is not root:
        nearest = nearest_name(word, names)
        suggestions = [f"{name.rpartition('.')[0]}.{nearest}"] if nearest else []
    else:
        name, suggestions = _suggest_sections(name, word, value, names, root)
    hint = f"Did you mean {', or '.join(f'{text!r}' for text in suggestions)}? " if suggestions else ""
    what = "Sections" if model is root else f"Settings of [{section}]"
    return f"Unknown setting '{name}'", f"{hint}{what}: {', '.join(names)}"


def _suggest_sections(
    name: str, word: str, value: Any, names: Sequence[str], root: type[BaseModel]
) -> tuple[str, list[str]]:
    """Return the name of an unknown section or setting at the top, and what the user may have meant."""
    if not isinstance(value, dict):
        # A setting without its section.
        sections = [section for section in names if word in _settings_of(root, section)]
        return name, [f"{section}.{word}" for section in sections[:MAX_SUGGESTIONS]]

    nearest = nearest_name(word, names)
    if nearest is None:
        return name, []
    if len(value) != 1:
        return name, [nearest]

    # The section is mistyped and has one setting: name section and setting.
    key = str(next(iter(value)))
    setting = nearest_name(key, _settings_of(root, nearest))
    is_close = difflib.SequenceMatcher(None, word, nearest).ratio() >= CLOSE
    if setting is not None:
        return shown(f"{name}.{key}"), [f"{nearest}.{setting}"]
    return shown(f"{name}.{key}"), [nearest] if is_close else []


def _settings_of(root: type[BaseModel], section: str) -> list[str]:
    """Return the names of the settings of a section."""
    field = root.model_fields.get(section)
    model = _section_class(field.annotation) if field else None
    return [] if model is None else list(model.model_fields)


def _find_model(location: tuple[Any, ...], root: type[BaseModel]) -> tuple[type[BaseModel], str]:
    """Return the class of the section that contains the last key of a location, and its dotted name."""
    model = root
    names: list[str] = []
    for key in location[:-1]:
        if not isinstance(key, int):
            names.append(str(key))
        field = model.model_fields.get(str(key))
        inner = _section_class(field.annotation) if field else None
        if inner is not None:
            model = inner
    return model, ".".join(names)


def _section_class(annotation: Any) -> type[BaseModel] | None:
    """Return the section class in the type of a field, or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (list, Union, Annotated):
        for argument in get_args(annotation):
            section = _section_class(argument)
            if section is not None:
                return section
    return None


def _dotted_name(location: tuple[Any, ...], data: dict[str, Any]) -> str:
    """Return a location as the user writes it. An entry of a list has its name, if it has one."""
    parts: list[str] = []
    node: Any = data
    for key in location:
        if isinstance(node, list) and isinstance(key, int):
            node = node[key]
            name = node.get("name") if isinstance(node, dict) else None
            parts.append(name if isinstance(name, str) else str(key))
        else:
            node = node.get(key) if isinstance(node, dict) else None
            parts.append(str(key))
    return ".".join(parts)
