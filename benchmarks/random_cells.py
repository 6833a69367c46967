"""Searched structures against random ones of equal size and equal training, without Ray Train.

    raycomp run jobs/quickstart.toml --set run.seed=0     # and 1, 2, 3, 4
    python -m benchmarks.random_cells jobs/quickstart.toml \
        --teacher runs/quickstart-A runs/quickstart-B --random 10

Each finished run gives a teacher and `run.seed`, so the repetitions differ in split, teacher and all
draws. In each, AdaBERT searches and chooses a structure. This structure and random ones, of the same
depth and of parameters within 10%, are then trained equally long in two ways:

- `inherited`: all start from the weights of the same parent graph;
- `scratch`: all start from new weights.

The training of each is as long as the finalists' rounds and the child's training together. Appends one
JSON line per structure to OUT/random_cells.jsonl, and prints the differences between the searched
structure and the mean of the random ones, with Student's 95% interval over the repetitions.
`--summary` only prints them, from the lines that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.adabert import prepare_data, train_child, write_line
from benchmarks.intervals import student_interval
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.efficiency import operation_params
from raycomp.methods.adabert.finalists import choose_structure, round_sizes
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import Structure, cell_edges
from raycomp.methods.adabert.training_tasks import read_structure
from raycomp.methods.adabert.trials import list_trials, search_structure, training_plan
from raycomp.storage.files import read_json, write_json
from raycomp.testing.local_run import LocalRun

SIZE_TOLERANCE = 0.1
"""Largest relative difference of the parameters of two structures of equal size."""

STARTS = ("inherited", "scratch")


def main() -> None:
    """Search, train the controls of each teacher, and print the differences."""
    args = _parse_arguments()
    lines = args.out / "random_cells.jsonl"
    if not args.summary:
        for teacher in args.teacher:
            seed = read_json(teacher / "job.json")["run"]["seed"]
            overrides = [*args.overrides, f"run.seed={seed}"]
            data, _ = prepare_data(args.job, overrides, teacher, args.out)
            for row in compare(data, args.random):
                write_line(lines, {**row, "run_seed": seed, "set": args.overrides, "job": args.job})

    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    splits = sorted({key for row in rows for key in row["scores"]})
    for start in STARTS:
        for split in splits:
            print(summarise(rows, start, split))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", help="Job file.")
    parser.add_argument(
        "--teacher", type=Path, nargs="+", default=[], help="Directories of finished runs."
    )
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", help="Setting: KEY=VALUE."
    )
    parser.add_argument("--random", type=int, default=10, help="Number of random structures.")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/random-cells"), help="Directory of results."
    )
    parser.add_argument("--summary", action="store_true", help="Only print the differences.")
    return parser.parse_args()


def compare(data: DistillationData, count: int) -> Iterator[dict[str, Any]]:
    """Search a structure, train it and random ones of equal size, and yield a row per training."""
    (trial, *_) = list_trials(data.job)
    run = LocalRun(data)
    plan = training_plan(data, trial)
    search_structure(run, data, trial)
    choose_structure(run, data, plan)
    searched = read_structure(data.layout.trial(trial.name))

    settings = data.job.settings(AdabertSettings)
    rng = random.Random(plan["seed"])  # nosec B311  # no secret depends on it
    structures = {"searched": searched}
    for number in range(count):
        structures[f"random-{number}"] = draw_equal_size(searched, settings, rng)

    epochs = settings.child_epochs + settings.finalist_epochs * len(round_sizes(settings))
    for start in STARTS:
        equal = settings.model_copy(update={"child": start, "child_epochs": epochs})
        job = data.job.model_copy(update={"adabert": equal})
        context = DistillationData(job, data.run_dir, method="adabert")
        for name, structure in structures.items():
            folder = f"{trial.name}-{name}-{start}"
            _place_structure(data, trial.name, folder, structure)
            figures = train_child(context, folder, {**plan, **asdict(trial)}, validate=True)
            names = ["selection", *(split.name for split in data.task.validation)]
            scores = {split: figures.pop(split) for split in names}
            yield {"name": name, "start": start, "scores": scores, **figures}


def _place_structure(data: DistillationData, source: str, target: str, structure: Structure) -> None:
    """Give a structure a trial's directory of its own, with the parent of another trial."""
    files = data.layout.trial(target)
    write_json(files.structure, json.loads(structure.to_json()))
    if not files.parent.exists():
        os.link(data.layout.trial(source).parent, files.parent)


def draw_equal_size(structure: Structure, settings: AdabertSettings, rng: random.Random) -> Structure:
    """Return a random structure of the same depth, whose parameters differ by at most 10%.

    Args:
        structure: The structure that it is compared with.
        settings: Candidate operations and width.
        rng: Generator of the draw.
    """
    wanted = cell_params(structure, settings.width)
    while True:
        operations = tuple(rng.choice(settings.operations) for _ in cell_edges(structure.nodes))
        drawn = Structure(structure.layers, operations, structure.nodes)
        is_equal = abs(cell_params(drawn, settings.width) - wanted) <= SIZE_TOLERANCE * wanted
        if is_equal and drawn != structure and set(operations) != {"zero"}:
            return drawn


def cell_params(structure: Structure, width: int) -> int:
    """Return the parameters of a structure's cell."""
    return sum(operation_params(name, width) for name in structure.operations)


def summarise(rows: Sequence[dict[str, Any]], start: str, split: str) -> str:
    """Return the difference between searched and random structures, in points, as one line.

    Args:
        rows: Lines of random_cells.jsonl.
        start: "inherited" or "scratch".
        split: Split whose scores are compared.
    """
    rows = [row for row in rows if row["start"] == start and split in row["scores"]]
    differences = []
    spreads = []
    for seed in sorted({row["run_seed"] for row in rows}):
        scores = {row["name"]: row["scores"][split] for row in rows if row["run_seed"] == seed}
        randoms = [score for name, score in scores.items() if name != "searched"]
        if "searched" in scores and randoms:
            differences.append(100 * (scores["searched"] - statistics.fmean(randoms)))
            spreads.append(100 * statistics.stdev(randoms) if len(randoms) > 1 else 0.0)
    if not differences:
        return f"{start}, {split}: no repetition is complete"

    mean = statistics.fmean(differences)
    line = f"{start}, {split}: searched - random {mean:+.2f} points"
    if len(differences) > 1:
        low, high = student_interval(differences)
        line += f" ({low:+.2f} to {high:+.2f})"
    line += f", {len(differences)} repetitions; "
    return line + f"random structures differ by {statistics.fmean(spreads):.2f} points (deviation)"


if __name__ == "__main__":
    main()
