"""Writes docs/job-file.md from the schema: `python -m tools.job_reference [--check] FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined

from raycomp.config.job import schema_of
from raycomp.config.study import StudySettings, Variant
from raycomp.methods.registry import METHODS

HEAD = """# The job file

Generated from `raycomp/config/job.py` by `make docs`; do not edit. TOML, one file a run. Unknown keys are
errors that name the nearest key. Any key can be set on the command line: `--set train.samples=4`,
`--set budget.half.params=12M`.
"""


STUDY = """# Of a study

A file with these sections is a grid of jobs: [studies.md](studies.md).
"""


def render() -> str:
    """Return the whole document."""
    parts = [HEAD]
    for name, field in schema_of(tuple(METHODS)).model_fields.items():
        section: Any = field.annotation
        title = f"[[{name}]]" if get_origin(section) is list else f"[{name}]"
        if get_origin(section) is list:
            section = get_args(section)[0]
        parts.append(_section(title, section))
    parts.append(STUDY)
    parts += [_section("[study]", StudySettings), _section("[[study.variant]]", Variant)]
    return "\n".join(parts)


def _section(title: str, section: Any) -> str:
    """Return one section as a heading, a sentence and a table."""
    summary = (section.__doc__ or "").strip().splitlines()[0]
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, inner in section.model_fields.items():
        default = "required" if inner.default is PydanticUndefined else _default(inner.default)
        rows.append(f"| `{key}` | {_type(inner.annotation)} | {default} | {inner.description} |")
    return f"## `{title}`\n\n{summary}\n\n" + "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value!r}`".replace("'", '"')


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f'`"{a}"`' for a in get_args(annotation))
    if annotation is Variant:
        return "tables"
    if get_origin(annotation) is dict:
        return "table"
    if get_origin(annotation) is list:
        return f"list of {_type(get_args(annotation)[0])}"
    inner = [a for a in get_args(annotation) if a is not type(None)]
    if inner:
        return " or ".join(_type(a) for a in inner)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, str(annotation))


def main(arguments: list[str]) -> int:
    """Write the document, or with --check compare it with the file."""
    check = "--check" in arguments
    path = Path(next(a for a in arguments if not a.startswith("--")))
    text = render()
    if not check:
        path.write_text(text, encoding="utf-8")
        return 0
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        print(f"{path} is out of date; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
