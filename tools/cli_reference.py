"""Writes docs/reference/cli.md from the commands: `python -m tools.cli_reference [--check] FILE`."""

from __future__ import annotations

import sys
from typing import Any

import typer

from raycomp.cli.main import app
from tools.generated_page import write_or_check

HEAD = """# Command line

This page is for people who use the command `raycomp`.
It lists every command with its arguments and options.

Generated from the help texts by `make docs`; do not edit.
Every command has `--help`, and [exit codes](environment.md#exit-codes) are the same for all.
"""


def render() -> str:
    """Return the whole page."""
    group: Any = typer.main.get_command(app)
    shown = {name: command for name, command in group.commands.items() if not command.hidden}
    return "\n".join([HEAD, *(_section(name, command) for name, command in shown.items())])


def _section(name: str, command: Any) -> str:
    """Return one command as a heading, its help text, its example and its parameters."""
    text, _, example = (command.help or "").partition("Example:")
    parts = [f"## `raycomp {name}`", " ".join(text.split())]
    if example:
        parts.append(f"```\n{' '.join(example.split())}\n```")

    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    if rows:
        parts.append("\n".join(["| argument or option | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _row(parameter: Any) -> str:
    """Return one parameter as a row of a table."""
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
    else:
        name = ", ".join(parameter.opts)
        if not parameter.is_flag:
            name += f" {parameter.metavar or parameter.opts[-1].strip('-').upper()}"

    default = ""
    if parameter.required:
        default = "required"
    elif parameter.default not in (None, "", False) and not callable(parameter.default):
        default = f"`{parameter.default}`"
    meaning = " ".join((parameter.help or "").split()).replace("|", "\\|")
    return f"| `{name}` | {default} | {meaning} |"


def main(arguments: list[str]) -> int:
    """Write the page, or with --check compare it with the file."""
    return write_or_check(render(), arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
