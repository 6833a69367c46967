"""The command line of the generators of documents: write a page, or check that it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path


def write_or_check(text: str, arguments: list[str]) -> int:
    """Write a generated page, or with --check compare it with the file; return the exit code.

    Args:
        text: Content of the page.
        arguments: Path of the page, and --check if it is only compared.
    """
    path = Path(next(argument for argument in arguments if not argument.startswith("--")))
    if "--check" not in arguments:
        path.write_text(text, encoding="utf-8")
        return 0
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        print(f"{path} is out of date. Run `make docs`.", file=sys.stderr)
        return 1
    return 0
