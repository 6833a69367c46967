"""Writes docs/job-file.md from the schema: `python -m tools.job_reference [--check] FILE`."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from raycomp.config.job import schema_of
from raycomp.config.renames import OLD_NAMES
from raycomp.config.study_settings import StudySettings, Variant
from raycomp.methods.registry import METHODS
from tools.generated_page import write_or_check

GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"

HEAD = """# The job file

This page is for people who write job files.
It lists every setting with its type, default and meaning.

A job file is a TOML file that describes one [run](glossary.md#runs-and-studies).
Only `[task]` is required, and `[[budget]]` for methods that search within limits.
The other settings have defaults.
Settings can be changed on the command line:

```
raycomp run jobs/quickstart.toml --set train.samples=4 --set budget.half.encoder_params=0.4x
```

An unknown setting is an error that names the nearest setting.
"(required)" marks settings without a default, and "not set" defaults that depend on the task or model.
Where a default differs from the paper, the description names the paper's form.
[Equations](equations.md) lists all differences.

This page is generated from the schema by `make docs`. Do not edit it.
"""

STUDY = """# The study file

A job file with these sections defines a [study](studies.md), a grid of runs.
"""

RENAMED = """# Renamed settings

The old names still work. The identity of a run does not depend on them.

| setting | old name |
|---|---|
"""

PACKAGES = {
    "run": "raycomp.runtime.pipeline",
    "task": "raycomp.data",
    "model": "raycomp.encoder",
    "teacher": "raycomp.training",
    "space": "raycomp.search",
    "embeddings": "raycomp.encoder` and `raycomp.methods",
    "train": "raycomp.methods.yoco` and `raycomp.runtime.training",
    "search": "raycomp.search` and `raycomp.runtime.scoring",
    "heal": "raycomp.methods",
    "augment": "raycomp.data",
    "finetune": "raycomp.runtime.pipeline",
    "budget": "raycomp.search",
    "export": "raycomp.encoder",
    "study": "raycomp.runtime.studies",
    "study.variant": "raycomp.runtime.studies",
}
"""Section -> packages that use it. The section of a method belongs to the method's package."""

LINKED_TERMS = (
    "architecture distribution",
    "augmentation",
    "cell",
    "child",
    "controller",
    "deployment search",
    "distillation",
    "driver node",
    "evaluator",
    "inherited weights",
    "parent graph",
    "phase",
    "probe",
    "run directory",
    "selection split",
    "shared initial set",
    "slice",
    "study run",
    "sub-network",
    "super-network",
    "teacher",
    "trial",
    "variant",
    "worker",
)
"""Terms of the glossary that descriptions link to, where they occur first in a section."""

TYPE_NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
}


def render() -> str:
    """Return the whole page."""
    anchors = read_glossary(GLOSSARY.read_text(encoding="utf-8"))
    parts = [HEAD]
    for name, field in schema_of(tuple(METHODS)).model_fields.items():
        section: Any = field.annotation
        is_list = get_origin(section) is list
        if is_list:
            section = get_args(section)[0]
        parts.append(render_section(name, section, anchors, is_list=is_list))

    parts.append(STUDY)
    parts.append(render_section("study", StudySettings, anchors))
    parts.append(render_section("study.variant", Variant, anchors, is_list=True))

    rows = [f"| `{new}` | `{old}` |" for new, old in OLD_NAMES.items()]
    parts.append(RENAMED + "\n".join(rows) + "\n")
    return "\n".join(parts)


def read_glossary(text: str) -> dict[str, str]:
    """Return the anchor of the glossary's heading that each linked term is under.

    Raises:
        KeyError: The glossary does not define a linked term.
    """
    anchor = ""
    anchors: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("## "):
            anchor = line.removeprefix("## ").lower().replace(" ", "-")
        elif line.startswith("| "):
            term = line.split("|")[1].strip()
            anchors[re.sub(r" \(.*\)", "", term)] = anchor
    return {term: anchors[term] for term in LINKED_TERMS}


def render_section(name: str, section: Any, anchors: dict[str, str], *, is_list: bool = False) -> str:
    """Return one section: a heading, its purpose, and a table of its settings.

    Args:
        name: Name of the section.
        section: Its class.
        anchors: Term -> anchor in the glossary.
        is_list: Whether a file can have the section several times.
    """
    title = f"[[{name}]]" if is_list else f"[{name}]"
    purpose = inspect.cleandoc(section.__doc__ or "").replace("\n", " ").replace("  ", "\n\n")
    package = PACKAGES.get(name) or section.__module__.removesuffix(".settings")
    unlinked = dict(anchors)
    lines = [
        f"## `{title}`",
        "",
        _link_terms(purpose, unlinked),
        "",
        f"Used by `{package}`.",
        "",
        "| setting | type | default | meaning |",
        "|---|---|---|---|",
    ]

    for key, field in section.model_fields.items():
        meaning = _link_terms(_one_line(str(field.description)), unlinked)
        lines.append(f"| `{key}` | {_type(field.annotation)} | {_default(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _one_line(description: str) -> str:
    """Return a description as a table cell: each value of the setting on its own line."""
    return description.replace("\n- ", "<br>").replace("|", "\\|")


def _link_terms(text: str, anchors: dict[str, str]) -> str:
    """Link the first occurrence of each term, and remove it from `anchors`."""
    # Code such as `teacher.warmup` is not a term.
    pieces = re.split(r"(`[^`]*`)", text)
    for term in sorted(anchors, key=len, reverse=True):
        pattern = re.compile(rf"(?<![\w\[-]){re.escape(term)}(?:e?s)?(?![\w\]-])", re.IGNORECASE)
        for i, piece in enumerate(pieces):
            if piece.startswith(("`", "[")):
                continue
            match = pattern.search(piece)
            if match is not None:
                link = f"[{match[0]}](glossary.md#{anchors.pop(term)})"
                pieces[i : i + 1] = [piece[: match.start()], link, piece[match.end() :]]
                break
    return "".join(pieces)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "(required)"
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value!r}`".replace("'", '"')


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f'`"{value}"`' for value in get_args(annotation))
    if annotation is Variant:
        return "tables"
    if get_origin(annotation) is dict:
        return "table"
    if get_origin(annotation) is list:
        return f"list of {_type(get_args(annotation)[0])}"

    members = [member for member in get_args(annotation) if member is not type(None)]
    if float in members:
        # A number can be written without a decimal point.
        members = [member for member in members if member is not int]
    if members:
        return " or ".join(_type(member) for member in members)
    return TYPE_NAMES[annotation]


def main(arguments: list[str]) -> int:
    """Write the page, or with --check compare it with the file."""
    return write_or_check(render(), arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
