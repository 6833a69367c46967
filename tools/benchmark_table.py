"""A file of results as a Markdown table: the figures of benchmarks/README.md.

    python -m tools.benchmark_table benchmarks/results/MACHINE-DATE.json
    python -m tools.benchmark_table --write benchmarks/results/MACHINE-DATE.json

Reads what `benchmarks.run_all` wrote, or `benchmarks.growth`. With --write the table takes the place of
what stands between `<!-- claims -->` and `<!-- end of claims -->` in benchmarks/README.md (of growth:
`<!-- growth -->` and `<!-- end of growth -->`), so that no figure there is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import Claim
from raycomp.errors import UserError
from raycomp.report.formatting import format_count
from raycomp.report.growth import fit_exponent, group_by_series, read_growth

README = Path(__file__).parents[1] / "benchmarks" / "README.md"


def main() -> None:
    """Print the table, or write it into the document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--write", action="store_true", help="into benchmarks/README.md")
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
    """Return which table a file of results is, "claims" or "growth", and the table.

    Raises:
        UserError: the file is neither.
    """
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no file of results ({error})") from None
    source = f"From `{path.name}`."
    if isinstance(rows, list) and rows and isinstance(rows[0], dict) and "ratio" in rows[0]:
        try:
            return "claims", f"{source}\n\n{claims_table(rows)}"
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} is no file of claims ({error})") from None
    return "growth", f"{source}\n\n{growth_table(path)}"


def claims_table(rows: list[dict[str, Any]]) -> str:
    """Return a row a claim: name, ratio, target, whether it holds, spread, runs."""
    found = ["| claim | ratio | target | holds | spread | runs |", "|---|---|---|---|---|---|"]
    for row in rows:
        claim = Claim(**row)
        sign = "<=" if claim.better == "lower" else ">="
        holds, (low, high) = "yes" if claim.holds else "no", claim.spread
        found.append(
            f"| {claim.name} | {claim.ratio:.3g} | {sign} {claim.target:g} | {holds} "
            f"| {low:.3g} to {high:.3g} | {claim.runs} |"
        )
    return "\n".join(found)


def growth_table(path: Path) -> str:
    """Return a row a series: its values by size, and the exponent of value ~ size^p."""
    found = ["| with | what | by size | p |", "|---|---|---|---|"]
    for name, line in group_by_series(read_growth(path)).items():
        values = ", ".join(f"{format_count(p.x)}: {format_count(p.value)}" for p in line)
        grows = fit_exponent([p.x for p in line], [p.value for p in line])
        p = "" if math.isnan(grows) else f"{round(grows, 2) + 0.0:.2f}"
        found.append(f"| {line[0].what} | {name}, {line[0].unit} | {values} | {p} |")
    return "\n".join(found)


def replace_between_marks(text: str, name: str, table: str) -> str:
    """Return a document with the table between its two marks.

    Raises:
        UserError: the document lacks a mark.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise UserError(f"the document lacks a line {begin} and one {end} after it")
    return f"{before}{begin}\n{table}\n{end}{after}"


if __name__ == "__main__":
    main()
