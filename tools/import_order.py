"""Writes the import order of pyproject.toml into CONTRIBUTING.md.

    python -m tools.import_order [--check]

The order is written once, in the contracts of import-linter, which `make imports` checks.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from tools.benchmark_table import replace_between_marks

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
MARK = "import order"


def render(pyproject: str) -> str:
    """Return the contracts about layers as one code block, the top layer first.

    Args:
        pyproject: Text of pyproject.toml.
    """
    contracts = tomllib.loads(pyproject)["tool"]["importlinter"]["contracts"]
    lines = []
    for contract in contracts:
        if contract["type"] == "layers":
            layers = [layer.replace("raycomp.", "") for layer in contract["layers"]]
            lines += [f"{contract['name']}:", "  " + " -> ".join(layers)]
    return "\n".join(["```text", *lines, "```"])


def main(arguments: list[str]) -> int:
    """Write the block, or with --check compare it with the page."""
    text = PAGE.read_text(encoding="utf-8")
    current = replace_between_marks(
        text, MARK, render((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    )
    if "--check" not in arguments:
        PAGE.write_text(current, encoding="utf-8")
        return 0
    if current != text:
        print(f"{PAGE.name} is out of date. Run `make docs`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
