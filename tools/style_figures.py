"""Measures the style of Python files, and fails if a figure is worse than its limit.

    python -m tools.style_figures                 # the figures of raycomp/, with their limits
    python -m tools.style_figures PATH ...        # the figures of other files or folders
    python -m tools.style_figures --details       # the places behind the figures that should fall

The figures are trends: they show density and missing names, and they cannot judge a text. A limit may
only become stricter. Documents and messages have a check of their own, tools.prose_check.
"""

from __future__ import annotations

import argparse
import ast
import functools
import re
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Names that say nothing about their value.
EMPTY_NAMES = frozenset(
    [
        "found",
        "said",
        "mine",
        "given",
        "made",
        "chosen",
        "known",
        "taken",
        "told",
        "drawn",
        "wanted",
        "kept",
        "asked",
        "seen",
        "where",
        "every",
        "each",
        "one",
        "room",
    ]
)
LONG_FUNCTION = 50
PARAGRAPHED_FUNCTION = 15
_NO_REMARK = re.compile("noqa|type:|fmt:|nosec")
_STRING_OR_COMMENT = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''(?:\\.|[^\\])*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'(?:\\.|[^'\\\n])*'"
    r"|#[^\n]*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Limit:
    """Worst allowed value of a figure.

    Attributes:
        figure: Key of the figure.
        value: The limit.
        may_only: "fall" for a largest value, "rise" for a smallest value.
    """

    figure: str
    value: float
    may_only: str = "fall"

    def is_met_by(self, value: float) -> bool:
        """Return whether a value reaches the limit."""
        return value <= self.value if self.may_only == "fall" else value >= self.value


# Make a limit stricter whenever the figure improves; never loosen one.
LIMITS = (
    Limit("longest module, lines", 330),
    Limit("one-word function names, %", 34),
    Limit("names without information", 0),
    Limit("functions above 50 lines", 9),
    Limit("conditional expressions per 1,000 lines", 8.6),
    Limit("packed assignments per 1,000 lines", 0.7),
    Limit("comments per 100 code lines", 2.5, "rise"),
    Limit("blank lines in functions above 15 lines, %", 9.3, "rise"),
)


@dataclass
class Counts:
    """Raw counts over some files, and the places behind them."""

    module_lines: list[int] = field(default_factory=list)
    code_lines: int = 0
    comments: int = 0
    functions: int = 0
    one_word_functions: list[str] = field(default_factory=list)
    empty_names: list[str] = field(default_factory=list)
    long_functions: list[str] = field(default_factory=list)
    conditional_expressions: int = 0
    packed_assignments: int = 0
    paragraphed_lines: int = 0
    blank_lines: int = 0

    def add_file(self, path: Path) -> None:
        """Add the counts of one file."""
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        self.module_lines.append(len(lines))
        self.code_lines += sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))
        self.comments += sum(1 for _ in _comments(source))

        for node in ast.walk(parse_module(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self._add_function(node, lines, path)
            elif isinstance(node, ast.IfExp):
                self.conditional_expressions += 1
            elif isinstance(node, ast.Assign) and _is_packed(node):
                self.packed_assignments += 1

    def _add_function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str], path: Path
    ) -> None:
        place = f"{path}:{node.lineno} {node.name}"
        if not node.name.startswith("__"):
            self.functions += 1
            if "_" not in node.name.strip("_"):
                self.one_word_functions.append(place)

        last_line = node.end_lineno or node.lineno
        length = last_line - node.lineno + 1
        if length > LONG_FUNCTION:
            self.long_functions.append(f"{place}, {length} lines")
        if length > PARAGRAPHED_FUNCTION:
            self.paragraphed_lines += length
            body = lines[node.lineno - 1 : last_line]
            self.blank_lines += sum(1 for line in body if not line.strip())

        for name in ast.walk(node):
            is_assigned = isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            if is_assigned and name.id in EMPTY_NAMES:
                entry = f"{path}:{name.lineno} {name.id}"
                # A nested function is walked twice.
                if entry not in self.empty_names:
                    self.empty_names.append(entry)

    def figures(self) -> dict[str, float]:
        """Return the figures by name."""
        num_lines = max(1, sum(self.module_lines))
        return {
            "median module, lines": statistics.median(self.module_lines or [0]),
            "longest module, lines": max(self.module_lines, default=0),
            "one-word function names, %": 100 * len(self.one_word_functions) / max(1, self.functions),
            "names without information": len(self.empty_names),
            "functions above 50 lines": len(self.long_functions),
            "conditional expressions per 1,000 lines": 1000 * self.conditional_expressions / num_lines,
            "packed assignments per 1,000 lines": 1000 * self.packed_assignments / num_lines,
            "comments per 100 code lines": 100 * self.comments / max(1, self.code_lines),
            "blank lines in functions above 15 lines, %": (
                100 * self.blank_lines / max(1, self.paragraphed_lines)
            ),
        }


@functools.cache
def parse_module(path: Path) -> ast.Module:
    """Return the syntax tree of a file. Tests read it too."""
    return ast.parse(path.read_text(encoding="utf-8"))


def count_files(paths: Iterable[Path]) -> Counts:
    """Return the counts over Python files, and over all Python files below folders."""
    counts = Counts()
    for path in paths:
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            counts.add_file(file)
    return counts


def exceeded_limits(figures: dict[str, float]) -> list[str]:
    """Return a message for each figure that is worse than its limit."""
    return [
        f"{limit.figure}: {figures[limit.figure]:.1f}, and the limit is {limit.value:g}. "
        f"It may only {limit.may_only}."
        for limit in LIMITS
        if not limit.is_met_by(figures[limit.figure])
    ]


def _comments(source: str) -> Iterator[str]:
    """Yield the comments of a source that are not remarks to a tool."""
    # tokenize takes twenty times as long.
    for match in _STRING_OR_COMMENT.finditer(source):
        text = match.group()
        if text.startswith("#") and not _NO_REMARK.search(text):
            yield text


def _is_packed(node: ast.Assign) -> bool:
    """Return whether an assignment has a tuple on both sides: `a, b = x, y`."""
    return isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)


def main() -> int:
    """Print the figures; return 1 if those of raycomp/ are worse than a limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
    parser.add_argument("--details", action="store_true", help="print the places behind the figures")
    args = parser.parse_args()

    counts = count_files(args.paths or [ROOT / "raycomp"])
    figures = counts.figures()
    limits = {limit.figure: limit for limit in LIMITS}
    for name, value in figures.items():
        limit = f"  limit {limits[name].value:g}" if name in limits else ""
        print(f"{name:<46} {value:8.1f}{limit}")
    if args.details:
        places = [*counts.long_functions, *counts.empty_names, *counts.one_word_functions]
        print("\n".join(places))

    if args.paths:
        return 0
    messages = exceeded_limits(figures)
    print("\n".join(messages), end="\n" if messages else "")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
