"""What the command line prints: studies, plans and tables, as text or as JSON; `run_output` has runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycomp.errors import shown

if TYPE_CHECKING:
    import pandas as pd

LABEL_WIDTH = 11  # characters of the label that begins a line
MAX_CELL = 2000  # characters of one value of a table


def print_study(study_dir: Path, as_json: bool) -> None:
    """Print a study's tables and sentences, and the paths of its files.

    Raises:
        UserError: The directory does not contain a study.
    """
    from raycomp.report import ablation_table, load_study_results
    from raycomp.report.study_sentences import build_study_sentences, format_study_heading
    from raycomp.report.study_tables import build_study_tables
    from raycomp.report.study_warnings import list_study_warnings

    study = load_study_results(study_dir)
    sentences = build_study_sentences(study)
    warnings = list_study_warnings(study_dir)
    if as_json:
        rows = list_rows(ablation_table(study))
        texts = {"sentences": sentences, "warnings": warnings}
        print_json({"study": str(study_dir), "table": rows, **texts})
        return

    print(format_study_heading(study))
    for table in build_study_tables(study):
        print(f"\n{table.title}")
        print_grid(table.columns, table.rows, table.named)
    print()
    for sentence in sentences:
        print(sentence)
    for warning in warnings:
        print_line("Warning", shown(warning, MAX_CELL))
    print_paths(study_dir, ("tables", "runs", "report.html"))


def print_plan(plan: dict[str, Any]) -> None:
    """Print what a job would do.

    Args:
        plan: What `raycomp.runtime.pipeline.plan.make_plan` returns.
    """
    from raycomp.report.formatting import plural

    print_line("Run", plan["run"])
    print_line("Task", plan["task"])
    _print_overview(plan["overview"])
    print_line("Space", f"{plan['space']['size']:,} architectures")
    for kind, (low, high) in plan["space"]["reach"].items():
        print_line("", f"{kind}: {_format_count(low)} to {_format_count(high)}")

    for budget in plan["budgets"]:
        if budget["feasible"] is None:
            print_line("Budget", f"{budget['name']}: {budget['reason']}")
            continue
        limits = [f"{kind} <= {_format_count(limit)}" for kind, limit in budget["limits"].items()]
        line = f"{budget['name']}: {', '.join(limits)}"
        if budget["feasible"]:
            print_line("Budget", f"{line} is feasible")
        else:
            print_line("Budget", f"{line} cannot be met: {budget['reason']}")

    if "adabert" in plan:
        cnn = plan["adabert"]
        low, high = map(_format_count, cnn["params"])
        print_line("AdaBERT", f"{cnn['structures']:,} structures with {low} to {high} parameters")
        work = f"{cnn['search_steps']:,} search steps, {cnn['candidates']} candidates, "
        work += f"{sum(cnn['round_steps']):,} steps of finalists and {cnn['child_steps']:,} child steps"
        print_line("", f"{plural(cnn['trials'], 'trial')} of {work}, up to {cnn['rows']:,} texts")

    for name, figures in plan["methods"].items():
        for budget, student in figures.get("students", {}).items():
            size = f"{student['layers']} layers, {_format_count(student['params'])} parameters"
            print_line(name, f"{budget}: a student of {size}, {student['steps']:,} steps")

        healing = figures.get("heal")
        if healing and healing["networks"]:
            networks = plural(healing["networks"], "network")
            line = f"{name}: about {networks}, up to {healing['steps']:,} steps each"
            print_line("Healing", line)

    print_line("Steps", _describe_steps(plan))
    print_line("Memory", _describe_memory(plan))
    print_line("Time", plan["time"])
    if "forecast" in plan:
        print_forecast(plan["forecast"])


def _print_overview(data: dict[str, Any]) -> None:
    """Print the facts about data and teacher of a plan.

    Args:
        data: What `Overview.to_json` returns.
    """
    from raycomp.data.overview import TITLE, Overview, format_overview

    print(TITLE)
    for line in format_overview(Overview.from_json(data)):
        print(line)


def _describe_memory(plan: dict[str, Any]) -> str:
    """Return the memory of training workers, and of the evaluators of a search."""
    from raycomp.report.formatting import plural

    text = f"about {plan['memory_gib']:.1f} GiB for each worker"
    size = plan["search"]
    if size is None:
        return text
    return (
        f"{text}; the search about {size['evaluator_gib']:.1f} GiB for each evaluator "
        f"({plural(size['evaluators'], 'evaluator')} on this machine)"
    )


def _describe_steps(plan: dict[str, Any]) -> str:
    """Return the training steps of the teacher and of each super-network."""
    parts = [f"teacher {plan['steps']['teacher']:,}"]
    for name, figures in plan["methods"].items():
        steps = figures.get("steps")
        if steps:
            title = "super-network" if name == "yoco" else f"super-network of {name}"
            phases = f" in {len(steps)} phases" if len(steps) > 1 else ""
            parts.append(f"{title} {sum(steps):,}{phases}")
    return "; ".join(parts)


def print_forecast(forecast: dict[str, Any]) -> None:
    """Print time and cost of a job on a cluster, and what they were computed from.

    Args:
        forecast: Result of `raycomp.runtime.pipeline.forecast.make_forecast`.
    """
    from raycomp.report.formatting import plural

    parts = []
    for name, seconds in forecast["seconds"].items():
        duration = "unknown"
        if seconds is not None:
            duration = f"{seconds / 60:,.1f} min"
        parts.append(f"{name} {duration}")

    machines = plural(forecast["nodes"], "machine")
    if forecast["gpus"]:
        machines += f" with {plural(forecast['gpus'], 'GPU')} each"
    cost = ""
    if forecast["cost"] is not None:
        cost = f", cost {forecast['cost']:,.2f}"

    print_line("Cluster", f"{machines}: {forecast['hours']:,.2f} h{cost} ({', '.join(parts)})")
    line = f"{forecast['allreduce_ms']:.1f} ms for each step at {forecast['gigabits']:g} Gbit/s, "
    print_line("All-reduce", f"{line}{100 * forecast['allreduce_share']:.0f}% of the time")
    print_line("Source", forecast["source"])


def print_frame(frame: Any) -> None:
    """Print a pandas table without its empty columns."""
    columns = [name for name in frame.columns if frame[name].notna().any()]
    table = Table(box=None, pad_edge=False)
    for name in columns:
        justify: Any = "right" if frame[name].dtype.kind in "if" else "left"
        table.add_column(name, justify=justify)
    for row in frame[columns].to_dict("records"):
        table.add_row(*(_format_cell(value) for value in row.values()))
    Console(width=max(Console().width, 32 * len(columns))).print(table)


def print_certificates(certificates: Sequence[dict[str, Any]]) -> None:
    """Print what was measured of exported models: a row per file, the limits and the notes.

    Args:
        certificates: Certificates with the key `out`, the folder of the model.
    """
    conditions = [
        (latency["batch"], latency.get("lengths") or latency["length"])
        for latency in certificates[0]["files"][0]["latencies"]
    ]
    columns = ["model", "file", "size_mb", "memory_mb", "selection"]
    columns += [f"p50_ms (batch {batch}, length {length})" for batch, length in conditions]
    rows = []
    for certificate in certificates:
        for entry in certificate["files"]:
            memory = "" if entry["memory_mb"] is None else f"{entry['memory_mb']:.0f}"
            row = [str(certificate["out"]), entry["file"], f"{entry['size_mb']:.1f}", memory]
            row += [f"{entry['selection']:.4f}"]
            rows.append(row + [f"{latency['p50_ms']:.2f}" for latency in entry["latencies"]])
    print_grid(columns, rows, 2)

    for certificate in certificates:
        for limit in certificate["limits"]:
            subject = " ".join(text for text in (str(certificate["out"]), limit["file"]) if text)
            value = "not measured" if limit["value"] is None else f"{limit['value']:,.4g}"
            text = f"{subject}: {limit['quantity']} {value}, limit {limit['limit']:,.4g}"
            print_line(limit["verdict"], text)
        for note in certificate["notes"]:
            print_line("Note", f"{certificate['out']}: {note}")


def print_json(data: Any) -> None:
    """Print JSON for scripts. Floats have all their digits; a number that is not finite is null."""
    print(json.dumps(_to_plain(data), indent=1, default=str, allow_nan=False))


def list_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table for `print_json`: `to_json` of pandas rounds numbers to 10 decimals."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _to_plain(value: Any) -> Any:
    """Return a value as JSON can represent it: no NaN, and times as text in ISO 8601."""
    if isinstance(value, dict):
        return {key: _to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(entry) for entry in value]

    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # NumPy's arrays and numbers. The import of NumPy would delay every command.
    if hasattr(value, "tolist"):
        return _to_plain(value.tolist())
    return value


def relative_to_cwd(path: Path) -> Path:
    """Return a path relative to the working directory if it is below it, else the path."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def print_grid(columns: Sequence[str], rows: Sequence[Sequence[str]], num_left: int) -> None:
    """Print texts as a table; the first columns are aligned at their left, the others at their right."""
    table = Table(box=None, pad_edge=False)
    for position, name in enumerate(columns):
        justify: Any = "left" if position < num_left else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(_format_cell(cell) for cell in row))
    # A table that the terminal folds can be read; one that rich cuts cannot.
    Console(width=max(200, Console().width)).print(table)


def print_line(label: str, text: str) -> None:
    """Print a line that begins with a label."""
    print(f"{label:<{LABEL_WIDTH}}{text}")


def print_paths(folder: Path, names: Sequence[str]) -> None:
    """Print those files and directories of a run or study that exist."""
    for name in names:
        # With export.enabled = false a run does not write exports.
        if (folder / name).exists():
            label = name.removesuffix(".html").capitalize()
            print_line(label, str(relative_to_cwd(folder / name)))


def _format_cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    # Tables may come from elsewhere: rich's markup and a terminal's control codes are shown as text.
    return escape(shown(str(value), MAX_CELL))


def _format_count(value: float) -> str:
    """Return a count with a unit, such as 12.3M."""
    # Imported here: `raycomp --help` starts within a second only without the packages of the report.
    from raycomp.report.formatting import format_count

    return format_count(value)
