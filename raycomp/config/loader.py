"""Reading a job file: TOML, `--set a.b=c`, and one clear message for every mistake in it."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from raycomp.config.job import Job, job_schema
from raycomp.config.renames import current_name, current_names, reject_both_names
from raycomp.errors import UserError, shown
from raycomp.methods.registry import method_names

Model = TypeVar("Model", bound=BaseModel)
MAX_JOB_BYTES = 2**16
MAX_TEXT, MAX_DEPTH, MAX_FAULTS = 4096, 8, 20
MAX_INTEGER = 2**53  # what a float and JSON hold exactly


def load_job(path: str | Path, overrides: list[str] | None = None) -> Job:
    """Read a job file and apply `a.b=c` overrides.

    Raises:
        UserError: the file is missing, too large or no TOML, a key is unknown, a value not allowed.
    """
    data = current_names(read_toml(path))
    if "study" in data:
        raise UserError(f"{path} is a study, a grid of jobs; `raycomp run` and `raycomp submit` take it")
    apply_overrides(data, overrides or [])
    return parse_job(data)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a job file as nested dicts, unchecked; raise UserError when it is none."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JOB_BYTES + 1)
        if len(raw) > MAX_JOB_BYTES:
            raise UserError(f"job file {path} is larger than {MAX_JOB_BYTES // 1024} KiB; is it one?")
        return _toml(raw.decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"job file {path} does not exist; see jobs/README.md for ready ones") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"job file {path} cannot be read: {error}") from None
    except ValueError as error:
        raise UserError(f"job file {path} is not valid TOML: {error}") from None


def parse_job(data: dict[str, Any]) -> Job:
    """Check a job given as a nested dict; raise UserError with every fault on its own line."""
    data = current_names(data)
    return parse(job_schema(data), data)


LATER: dict[str, dict[str, Any]] = {"adabert": {"exact_match": False}}
"""Settings that the job.json of older runs lacks, and what those runs did."""


def parse_stored(data: dict[str, Any]) -> Job:
    """As `parse_job`, for the job.json of a run: what it lacks is as it was when the run was made."""
    data = current_names(data, note=False)
    for section, settings in LATER.items():
        held = data.get(section) if isinstance(data, dict) else None
        if isinstance(held, dict):  # what a damaged file holds there, parse_job names
            data = {**data, section: {**settings, **held}}
    return parse_job(data)


def parse(schema: type[Model], data: dict[str, Any]) -> Model:
    """Check a nested dict against a schema; raise UserError with every fault on its own line."""
    _bounded(data)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        lines = _merged([_explain(dict(e), data, schema) for e in error.errors()])
        more = [f"and {len(lines) - MAX_FAULTS} more mistakes"] if len(lines) > MAX_FAULTS else []
        raise UserError("\n".join(lines[:MAX_FAULTS] + more)) from None


def _merged(lines: list[str]) -> list[str]:
    """Make one line of the faults of one value: it may be of several types, and is of none."""
    found: dict[str, list[str]] = {}
    for line in dict.fromkeys(lines):
        given, mark, wanted = line.rpartition(" was given; ")
        found.setdefault(f"{given}{mark}" or line, []).append(wanted if mark else "")
    return [given + "; or: ".join(wanted).replace(".; or:", "; or:") for given, wanted in found.items()]


def _toml(text: str) -> dict[str, Any]:
    """Parse TOML; raise ValueError also where Python's parser gives up on depth."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _bounded(data: dict[str, Any]) -> None:
    """Refuse what no setting is: deep nesting, endless text, numbers beyond every size."""
    open_: list[tuple[tuple[str, ...], Any]] = [((), data)]
    while open_:
        location, value = open_.pop()
        name = shown(".".join(location))
        if isinstance(value, (dict, list)):
            if len(location) >= MAX_DEPTH:
                raise UserError(f"'{name}' is nested deeper than {MAX_DEPTH} levels; no setting is")
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            open_ += [((*location, str(k)), v) for k, v in pairs]
        elif isinstance(value, str):
            if len(value) > MAX_TEXT:
                raise UserError(f"'{name}' has {len(value):,} characters; allowed are up to {MAX_TEXT:,}")
            if "\x00" in value or (not value.isascii() and _torn(value)):
                raise UserError(f"'{name}': {shown(repr(value))} is no text; remove what is no character")
        elif isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise UserError(f"'{name}' is larger than {MAX_INTEGER:,}; give a smaller number")


def _torn(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def apply_overrides(data: dict[str, Any], items: Sequence[str]) -> None:
    """Apply `a.b=c` overrides in place, in order.

    Raises:
        UserError: An override is not KEY=VALUE, names both names of a setting, or fits no table.
    """
    reject_both_names(item.partition("=")[0].strip() for item in items)
    for item in items:
        override(data, item)


def override(data: dict[str, Any], item: str) -> None:
    """Apply one override in place; `budget.NAME.key` and `budget.0.key` reach into [[budget]]."""
    key, sep, text = item.partition("=")
    parts = key.strip().split(".")
    if not sep or not all(parts) or len(parts) > MAX_DEPTH:
        raise UserError(f"--set {shown(item)!r}: expected key=value, such as train.epochs=2")
    try:
        value = _toml(f"v = {text}")["v"]
    except ValueError:
        value = text  # an unquoted string, such as model.name=google-bert/bert-base-uncased
    put(data, key.strip(), value, f"--set {shown(item)!r}")


def put(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key in place; `where` begins the message of a UserError."""
    parts = current_name(key).split(".")
    node: Any = data
    for part in parts[:-1]:
        node = _child(node, part, where)
    if not isinstance(node, dict):
        raise UserError(f"{where}: {'.'.join(parts[:-1])} is not a table of the job file")
    node[parts[-1]] = value
    if parts[0] == "task" and parts[-1] in ("name", "train"):
        # The other source of text goes, so that a ready job file can be pointed at new data.
        for other in {"name": ("train", "validation", "text", "label"), "train": ("name",)}[parts[-1]]:
            node.pop(other, None)


def _child(node: Any, part: str, where: str) -> Any:
    if isinstance(node, list):
        for entry in node:
            if isinstance(entry, dict) and entry.get("name") == part:
                return entry
        if part.isdecimal() and len(part) < 6 and int(part) < len(node):
            return node[int(part)]
        names = shown(", ".join(str(e.get("name")) for e in node if isinstance(e, dict)))
        raise UserError(f"{where}: no entry {part!r}; there are: {names}")
    if not isinstance(node, dict):
        raise UserError(f"{where}: {part!r} lies below a value that is not a table")
    return node.setdefault(part, {})


def _model_at(location: tuple[Any, ...], root: type[BaseModel]) -> tuple[type[BaseModel], str]:
    """Return the schema class that holds the last key of a location, and its dotted prefix."""
    model = root
    prefix: list[str] = []
    for key in location[:-1]:
        prefix.append(str(key))
        field = model.model_fields.get(str(key))
        inner = _section(field.annotation) if field else None
        if inner is not None:
            model = inner
    return model, ".".join(prefix)


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (list, Union, Annotated):
        return next((m for a in get_args(annotation) if (m := _section(a))), None)
    return None


def _explain(error: dict[str, Any], data: dict[str, Any], root: type[BaseModel]) -> str:
    """Turn one pydantic error into: what was given, what is allowed, what to do."""
    location = tuple(k for k in error["loc"] if not (isinstance(k, str) and k in _UNION_MARKS))
    dotted = shown(_dotted(location, data))
    model, prefix = _model_at(location, root)
    if error["type"] == "extra_forbidden":
        owner = dotted.rpartition(".")[0]
        names = list(model.model_fields)
        if issubclass(model, Job):
            names += [name for name in method_names() if name not in names]
        known = {f"{owner}.{name}" if owner else name: name for name in names}
        near = nearest_key(str(location[-1]), known)
        given = error.get("input")
        if near and model is root and isinstance(given, dict) and len(given) == 1:
            # A mistyped section with one key in it: name the whole path.
            field = root.model_fields.get(near)
            key, inner = next(iter(given)), _section(field.annotation) if field else None
            dotted = shown(f"{dotted}.{key}")
            inside = {n: n for n in inner.model_fields} if inner else {}
            near = f"{near}.{nearest_key(str(key), inside) or key}"
        hint = f" Did you mean '{near}'?" if near else ""
        allowed = ", ".join(names)
        tables = ".".join(k for k in prefix.split(".") if not k.isdigit())
        what = "Sections" if model is root else f"Keys of [{tables}]"
        return f"unknown setting '{dotted}'.{hint} {what}: {allowed}."
    if error["type"] == "missing":
        what = "section" if len(location) == 1 else "setting"
        return f"missing {what} '{dotted}'; add it to the job file (docs/job-file.md lists all keys)."
    message = str(error["msg"]).removeprefix("Value error, ")
    message = shown(message[0].lower() + message[1:], 1000)
    if isinstance(error.get("input"), (dict, BaseModel)):
        return f"'{dotted}' {message}." if dotted else f"{message}."
    return f"'{dotted}': {shown(repr(error.get('input')))} was given; {message}."


_UNION_MARKS = {"int", "float", "str", "list[float]", "list[int]", "constrained-float"}


def _dotted(location: tuple[Any, ...], data: dict[str, Any]) -> str:
    """Write a location as the user would: budgets by their name where they have one."""
    parts: list[str] = []
    node: Any = data
    for key in location:
        node = (
            node[key]
            if isinstance(node, list) and isinstance(key, int)
            else (node.get(key) if isinstance(node, dict) else None)
        )
        named = isinstance(key, int) and isinstance(node, dict) and isinstance(node.get("name"), str)
        parts.append(str(node["name"]) if named else str(key))
    return ".".join(parts)


def nearest_key(word: str, known: dict[str, str]) -> str | None:
    """Return the dotted path (key of `known`) whose name (value) is nearest to a word, or None."""
    by_name = {name: full for full, name in known.items()}
    found = difflib.get_close_matches(word, list(by_name), n=1, cutoff=0.5)
    return by_name[found[0]] if found else None
