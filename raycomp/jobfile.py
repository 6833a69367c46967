"""Reading a job file: TOML, `--set a.b=c`, and one clear message for every mistake in it."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from raycomp.errors import UserError
from raycomp.job import Job

Model = TypeVar("Model", bound=BaseModel)


def load_job(path: str | Path, overrides: list[str] | None = None) -> Job:
    """Read a job file and apply `a.b=c` overrides.

    Raises:
        UserError: the file is missing or no TOML, a key is unknown, a value is not allowed.
    """
    data = read_toml(path)
    if "study" in data:
        raise UserError(f"{path} is a study, a grid of jobs; only `raycomp run` takes it")
    for item in overrides or []:
        override(data, item)
    return parse_job(data)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a job file as nested dicts, unchecked; raise UserError when it is none."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"job file {path} does not exist; see jobs/README.md for ready ones") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"job file {path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"job file {path} is not valid TOML: {error}") from None


def parse_job(data: dict[str, Any]) -> Job:
    """Check a job given as a nested dict; raise UserError with every fault on its own line."""
    return parse(Job, data)


def parse(schema: type[Model], data: dict[str, Any]) -> Model:
    """Check a nested dict against a schema; raise UserError with every fault on its own line."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        lines = [_explain(dict(e), data, schema) for e in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def override(data: dict[str, Any], item: str) -> None:
    """Apply one override in place; `budget.NAME.key` and `budget.0.key` reach into [[budget]]."""
    key, sep, text = item.partition("=")
    parts = key.strip().split(".")
    if not sep or not all(parts):
        raise UserError(f"--set {item!r}: expected key=value, such as train.epochs=2")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text  # an unquoted string, such as model.name=google-bert/bert-base-uncased
    put(data, key.strip(), value, f"--set {item!r}")


def put(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key in place; `where` begins the message of a UserError."""
    parts = key.split(".")
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
        if part.isdigit() and int(part) < len(node):
            return node[int(part)]
        names = ", ".join(str(e.get("name")) for e in node if isinstance(e, dict))
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
    dotted = _dotted(location, data)
    model, prefix = _model_at(location, root)
    if error["type"] == "extra_forbidden":
        owner = dotted.rpartition(".")[0]
        known = {f"{owner}.{name}" if owner else name: name for name in model.model_fields}
        near = nearest_key(str(location[-1]), known)
        given = error.get("input")
        if near and model is root and isinstance(given, dict) and len(given) == 1:
            # A mistyped section with one key in it: name the whole path.
            key, inner = next(iter(given)), _section(root.model_fields[near].annotation)
            dotted = f"{dotted}.{key}"
            inside = {n: n for n in inner.model_fields} if inner else {}
            near = f"{near}.{nearest_key(str(key), inside) or key}"
        hint = f" Did you mean '{near}'?" if near else ""
        allowed = ", ".join(model.model_fields)
        tables = ".".join(k for k in prefix.split(".") if not k.isdigit())
        what = "Sections" if model is root else f"Keys of [{tables}]"
        return f"unknown setting '{dotted}'.{hint} {what}: {allowed}."
    if error["type"] == "missing":
        what = "section" if len(location) == 1 else "setting"
        return f"missing {what} '{dotted}'; add it to the job file (docs/job-file.md lists all keys)."
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if isinstance(error.get("input"), (dict, BaseModel)):
        return f"'{dotted}' {message}." if dotted else f"{message}."
    return f"'{dotted}': {error.get('input')!r} was given; {message}."


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
