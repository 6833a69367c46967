"""What the command line prints: runs, plans and tables, for people and as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycomp.errors import shown
from raycomp.storage.layout import RunLayout


def show_study(folder: Path, as_json: bool) -> None:
    """Print a study's tables and sentences, and where all lies."""
    from raycomp.report import ablation_table, load_study_results
    from raycomp.report.study_tables import (
        build_study_sentences,
        build_study_tables,
        format_study_heading,
    )

    study = load_study_results(folder)
    if as_json:
        found = json.loads(ablation_table(study).to_json(orient="records"))
        print_json({"study": str(folder), "table": found, "sentences": build_study_sentences(study)})
        return
    print(format_study_heading(study))
    for table in build_study_tables(study):
        grid = Table(box=None, pad_edge=False)
        for i, name in enumerate(table.columns):
            grid.add_column(name, justify="left" if i < table.named else "right")
        for row in table.rows:
            grid.add_row(*row)
        print(f"\n{table.title}")
        Console(width=max(200, Console().width)).print(grid)
    print()
    for said in build_study_sentences(study):
        print(said)
    for part in ("tables", "runs", "report.html"):
        print(f"{part.removesuffix('.html'):<9}{relative_to_cwd(folder / part)}")


def show_run(run_dir: Path, as_json: bool) -> None:
    """Print a finished run: its teacher, a row per deployment, and where all lies."""
    from raycomp.storage.files import read_json
    from raycomp.storage.tables import read_table

    frame = read_table(run_dir, "deployments")
    layout = RunLayout(run_dir)
    found = {"search": layout.summary("yoco"), "adabert": layout.summary("adabert")}
    summary = {k: read_json(p) for k, p in found.items() if p.exists()}
    teacher = read_json(layout.teacher_score)
    if as_json:
        rows = json.loads(frame.to_json(orient="records"))
        print_json({"run": str(run_dir), "deployments": rows, **summary, "teacher": teacher})
        return
    metric = str(frame["metric"].iloc[0])
    made = frame[frame["params"].notna()].iloc[0]
    latency = next(iter(summary.values()))["teacher_latency_ms"]
    print(
        f"{run_dir.name}  teacher {metric} {made['teacher_validation']:.3f}  "
        f"{made['params'] / made['params_ratio'] / 1e6:.1f}M params  p50 latency {latency:.1f} ms"
    )
    table = Table(box=None, pad_edge=False)
    for name in ("method", "budget"):
        table.add_column(name)
    for name in (
        "limit", "used", "params", "of full", "selection", "validation", "kept", "p50 latency",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for row in frame.sort_values("method", ascending=False, kind="stable").to_dict("records"):
        searched = row["kind"] == "beta"  # a CNN is searched under a price, not under a limit
        table.add_row(
            row["method"],
            row["budget"],
            "" if searched else f"{_short(row['limit'])} {_KINDS[row['kind']]}",
            "" if searched else _short(row["cost"]),
            _short(row["params"]),
            f"{row['params_ratio']:.2f}",
            f"{row['selection']:.3f}",
            f"{row['validation']:.3f}",
            f"{100 * row['retention']:.1f}%",
            f"{row['latency_ms']:.1f} ms",
        )
    Console(width=max(120, Console().width)).print(table)
    if "search" in summary:
        budgets, search = int((frame["method"] == "yoco").sum()), summary["search"]
        alone = "dearest alone" if search.get("trials", budgets) == budgets else "dearest trial"
        print(
            f"search used {search['evaluations']} evaluations for {budgets} budgets "
            f"({alone}: {search['dearest']}) · super-network trained once"
        )
    for part in ("tables", "exports", "report.html"):
        if part == "exports" and not (run_dir / part).exists():
            continue  # export.enabled = false
        print(f"{part.removesuffix('.html'):<9}{relative_to_cwd(run_dir / part)}")


def relative_to_cwd(path: Path) -> Path:
    """Return a path as seen from the working directory, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def print_plan(found: dict[str, Any]) -> None:
    """Print what a job would do."""
    print(f"run       {found['run']}")
    print(f"task      {found['task']}")
    print(f"space     {found['space']['size']:,} architectures")
    for kind, (low, high) in found["space"]["reach"].items():
        print(f"{kind:<15}{_short(low)} .. {_short(high)}")
    for b in found["budgets"]:
        verdict = "ok" if b["feasible"] else f"cannot be met: {b['reason']}"
        print(f"budget    {b['name']} {b['kind']} <= {_short(b['limit'])}: {verdict}")
    if "adabert" in found:
        cnn = found["adabert"]
        low, high = map(_short, cnn["params"])
        print(f"adabert   {cnn['structures']:,} structures of {low} .. {high} params · {cnn['trials']} "
              f"trials of {cnn['search_steps']:,} + {cnn['child_steps']:,} steps · up to "
              f"{cnn['rows']:,} sentences")  # fmt: skip
    steps = found["steps"]
    print(f"steps     teacher {steps['teacher']:,} · super-network {steps['supernet']:,} in "
          f"{steps['phases']} phases")  # fmt: skip
    print(f"memory    about {found['memory_gib']:.1f} GiB a worker")
    print(f"time      {found['time']}")
    if "forecast" in found:
        print_forecast(found["forecast"])
    for note in found["notes"]:
        print(f"note      {note}")


def print_forecast(guess: dict[str, Any]) -> None:
    """Print time and cost on a cluster, and where they come from."""
    parts = " · ".join(
        f"{name} {seconds / 60:,.1f} min" if seconds is not None else f"{name} not known"
        for name, seconds in guess["seconds"].items()
    )
    cost = "" if guess["cost"] is None else f", cost {guess['cost']:,.2f}"
    where = f"{guess['nodes']} machines of {guess['gpus']} GPUs" if guess["gpus"] else (
        f"{guess['nodes']} machines"
    )  # fmt: skip
    print(f"on        {where}: {guess['hours']:,.2f} h{cost} ({parts})")
    print(f"gradients {guess['allreduce_ms']:.1f} ms a step at {guess['gigabits']:g} Gbit/s, "
          f"{100 * guess['allreduce_share']:.0f}% of the time")  # fmt: skip
    print(f"source    {guess['source']}")


def print_frame(frame: Any) -> None:
    """Print a table, its empty columns left out."""
    columns = [c for c in frame.columns if frame[c].notna().any()]
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if frame[name].dtype.kind in "if" else "left")
    for row in frame[columns].to_dict("records"):
        table.add_row(*(_cell(v) for v in row.values()))
    Console(width=max(Console().width, 32 * len(columns))).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return escape(shown(str(value), 2000))  # tables may come from elsewhere: no markup, no escapes


_KINDS = {"params": "params", "encoder_params": "encoder", "flops": "flops"}


def _short(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def print_json(data: Any) -> None:
    """Print JSON for scripts."""
    print(json.dumps(data, indent=1, default=str))
