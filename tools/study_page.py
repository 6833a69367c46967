"""A finished study as a page of docs/results/: its tables and sentences, none of them typed by hand.

    python -m tools.study_page runs/eesng-1f3a9c02

Writes docs/results/NAME.md, NAME.csv (`ablation_table`, all digits) and NAME.svg. What stands on the
page outside of `<!-- study -->` and `<!-- end of study -->` is a person's, and is kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.run_all import ROOT, machine_name
from raycomp.errors import UserError
from raycomp.report import ablation_table, load_study_results
from raycomp.report.study_tables import (
    TextTable,
    build_study_sentences,
    build_study_tables,
    format_study_heading,
)
from tools.benchmark_table import replace_between_marks
from tools.study_figure import draw_study

RESULTS = ROOT / "docs" / "results"


def main() -> None:
    """Write the page and the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, metavar="STUDY")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    try:
        print(write_page(args.study, args.out))
    except UserError as error:
        sys.exit(str(error))


def write_page(folder: Path, out: Path) -> Path:
    """Write a study's page and its CSV; return the page.

    Raises:
        UserError: the folder is no study, or its page lacks a mark.
    """
    study = load_study_results(folder)
    preset = f" --preset {study.preset}" if study.preset else ""
    parts = [
        f"`raycomp run jobs/studies/{study.name}.toml{preset} --set task.folder=GLUE`, "
        f"{machine_name('cpu')}.",
        format_study_heading(study),
        f"![means and intervals of {study.name}]({study.name}.svg)",
        *(format_markdown(t) for t in build_study_tables(study)),
        *build_study_sentences(study),
    ]
    page = out / f"{study.name}.md"
    empty = f"# {study.name}\n\n<!-- study -->\n<!-- end of study -->\n"
    text = page.read_text(encoding="utf-8") if page.exists() else empty
    out.mkdir(parents=True, exist_ok=True)
    page.write_text(replace_between_marks(text, "study", "\n\n".join(parts)), encoding="utf-8")
    draw_study(study).savefig(page.with_suffix(".svg"), metadata={"Date": None})
    ablation_table(study).to_csv(page.with_suffix(".csv"), index=False)
    return page


def format_markdown(table: TextTable) -> str:
    """Return a table in Markdown, under its title."""
    rule = ["---" if i < table.named else "--:" for i in range(len(table.columns))]
    rows = [
        "| " + " | ".join(c.replace("|", "\\|") for c in row) + " |"
        for row in [table.columns, *table.rows]
    ]
    return "\n".join([f"**{table.title}**", "", rows[0], f"|{'|'.join(rule)}|", *rows[1:]])


if __name__ == "__main__":
    main()
