"""Write the page of a finished study in docs/results/, so that no figure there is typed by hand.

    python -m tools.study_page runs/eesng-1f3a9c02

Writes docs/results/NAME.md, NAME.svg, and the rows of finished runs as CSV files (`tools.study_rows`).
Only the part of the page between `<!-- study -->` and `<!-- end of study -->` is replaced; everything
else is written by people. Rows of these files that the study directory lacks stay on the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.run_all import ROOT, machine_name
from raycomp.config.study import load_study_file
from raycomp.errors import UserError
from raycomp.report import load_study_results
from raycomp.report.study_results import StudyResults
from raycomp.report.study_sentences import build_study_sentences, format_study_heading
from raycomp.report.study_tables import build_study_tables
from raycomp.report.text_table import TextTable
from tools.benchmark_table import replace_between_marks
from tools.study_figure import draw_study
from tools.study_rows import StudyRows, apply_rows, merge_rows

RESULTS = ROOT / "docs" / "results"


def main() -> None:
    """Write the page, the table and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="Study directory.")
    parser.add_argument("--out", type=Path, default=RESULTS, help="Directory of the page.")
    args = parser.parse_args()
    try:
        print(write_page(args.study, args.out))
    except UserError as error:
        sys.exit(str(error))


def write_page(study_dir: Path, out: Path) -> Path:
    """Write the page, the files of rows and the figure of a study.

    Args:
        study_dir: The study directory.
        out: Directory of the files; it is created if it does not exist.

    Returns:
        The page.

    Raises:
        UserError: The directory does not contain a study, its page lacks one of the two marks, or a file
            of rows does not say which study made them.
    """
    study = load_study_results(study_dir)
    page = out / f"{study.name}.md"
    text = f"# {study.name}\n\n<!-- study -->\n<!-- end of study -->\n"
    if page.exists():
        text = page.read_text(encoding="utf-8")
    rows = collect_rows(study, page)
    merged = apply_rows(study, rows)
    text = replace_between_marks(text, "study", format_study(merged, rows))

    out.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    draw_study(merged).savefig(page.with_suffix(".svg"), metadata={"Date": None})
    rows.write(page)
    return page


def collect_rows(study: StudyResults, page: Path) -> StudyRows:
    """Return the rows of a study, and those that the files of its page have from earlier ones."""
    return merge_rows(study, format_study_heading(study), format_command(study), page)


def format_study(study: StudyResults, rows: StudyRows) -> str:
    """Return the generated part of a page as Markdown: figure, findings, tables, and the commands."""
    sentences = build_study_sentences(study)
    tables = [format_markdown(table) for table in build_study_tables(study)]
    # The newest study first: its tasks have no number.
    sources = [
        f"{line['heading']}. Command: {line['command']}."
        for line in rows.studies[::-1].to_dict("records")
    ]
    parts = [
        f"![Means and 95% intervals of the study {study.name}]({study.name}.svg)",
        "\n".join(f"- {sentence}" for sentence in sentences),
        *tables,
        *sources,
    ]
    return "\n\n".join(part for part in parts if part)


def format_command(study: StudyResults) -> str:
    """Return the command that executes a study, and the machine."""
    options = f" --preset {study.preset}" if study.preset else ""
    if any(task.startswith("glue/") for task in study.tasks):
        options += " --set task.folder=GLUE"
    if study.lengths:
        options += f" --set {study.lengths}"
    options += _format_grid(study)
    return f"`raycomp run jobs/studies/{study.name}.toml{options}`, on {machine_name('cpu')}"


def _format_grid(study: StudyResults) -> str:
    """Return the options for the tasks and seeds that differ from those of the study file."""
    path = ROOT / "jobs" / "studies" / f"{study.name}.toml"
    if not path.exists():
        return ""
    settings = load_study_file(path, preset=study.preset).settings
    options = ""
    if list(study.tasks) != settings.tasks:
        options += f" --set 'study.tasks={json.dumps(list(study.tasks))}'"
    if list(study.seeds) != settings.seeds:
        options += f" --set 'study.seeds={json.dumps(list(study.seeds))}'"
    return options


def format_markdown(table: TextTable) -> str:
    """Return a table as Markdown, below its title."""
    rule = ["---" if position < table.named else "--:" for position in range(len(table.columns))]
    rows = []
    for row in [table.columns, *table.rows]:
        cells = [cell.replace("|", "\\|") for cell in row]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([f"**{table.title}**", "", rows[0], f"|{'|'.join(rule)}|", *rows[1:]])


if __name__ == "__main__":
    main()
