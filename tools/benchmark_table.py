"""Print a file of benchmark results as a Markdown table, or write it into benchmarks/README.md.

    python -m tools.benchmark_table benchmarks/results/MACHINE-DATE.json
    python -m tools.benchmark_table --write benchmarks/results/MACHINE-DATE.json

Reads the files that `benchmarks.run_all` and `benchmarks.growth` write. With --write the table replaces
the part of benchmarks/README.md between `<!-- claims -->` and `<!-- end of claims -->` (growth: `<!--
growth -->` and `<!-- end of growth -->`), so that no figure there is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import Claim
from raycomp.errors import UserError
from raycomp.report.formatting import format_count
from raycomp.report.growth import format_exponent, group_by_series, read_growth

README = Path(__file__).parents[1] / "benchmarks" / "README.md"


def main() -> None:
    """Print the table, or write it into the document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="File of results.")
    parser.add_argument("--write", action="store_true", help="Write into benchmarks/README.md.")
    args = parser.parse_args()
    try:
        name, table = build_table(args.file)
        if args.write:
            README.write_text(replace_between_marks(README.read_text(), name, table))
        else:
            print(table)
    except UserError as error:
        sys.exit(str(error))


def build_table(path: Path) -> tuple[str, str]:
    """Return the name of a file's table, "claims" or "growth", and the table as Markdown.

    Raises:
        UserError: The file is not a file of results.
    """
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a file of results ({error}). Name a file that `benchmarks.run_all` or "
            "`benchmarks.growth` wrote."
        ) from None

    source = f"From `{path.name}`."
    if isinstance(rows, list) and rows and isinstance(rows[0], dict) and "ratio" in rows[0]:
        try:
            return "claims", f"{source}\n\n{claims_table(rows)}"
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not a file of claims ({error}). Name a file that `benchmarks.run_all` wrote."
            ) from None
    return "growth", f"{source}\n\n{growth_table(path)}"


def claims_table(rows: list[dict[str, Any]]) -> str:
    """Return one row for each claim: name, ratio, target, whether it holds, spread, runs."""
    lines = ["| claim | ratio | target | holds | spread | runs |", "|---|---|---|---|---|---|"]
    for row in rows:
        claim = Claim(**row)
        sign = "<=" if claim.better == "lower" else ">="
        holds = "yes" if claim.holds else "no"
        low, high = claim.spread
        lines.append(
            f"| {claim.name} | {claim.ratio:.3g} | {sign} {claim.target:g} | {holds} "
            f"| {low:.3g} to {high:.3g} | {claim.runs} |"
        )
    return "\n".join(lines)


def growth_table(path: Path) -> str:
    """Return one row for each series: its values by size, and the exponent p of value ~ size^p."""
    lines = ["| with | what | by size | p |", "|---|---|---|---|"]
    for name, points in group_by_series(read_growth(path)).items():
        values = ", ".join(f"{format_count(point.x)}: {format_count(point.value)}" for point in points)
        exponent = format_exponent([point.x for point in points], [point.value for point in points])
        lines.append(f"| {points[0].what} | {name}, {points[0].unit} | {values} | {exponent} |")
    return "\n".join(lines)


def replace_between_marks(text: str, name: str, table: str) -> str:
    """Return a document with a table between the marks `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        UserError: The document lacks one of the marks.
    """
    begin = f"<!-- {name} -->"
    end = f"<!-- end of {name} -->"
    before, has_begin, rest = text.partition(begin)
    _, has_end, after = rest.partition(end)
    if not has_begin or not has_end:
        raise UserError(f"The document lacks a line {begin} and a line {end} after it. Add both lines.")
    return f"{before}{begin}\n{table}\n{end}{after}"


if __name__ == "__main__":
    main()
