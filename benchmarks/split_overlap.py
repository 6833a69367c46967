"""Overlap of the selection split with train: the share of its rows that a training row contains.

    python -m benchmarks.split_overlap --folder GLUE [--tasks sst2 mrpc] [--selection 2000] [--seeds 3]

Compares the rule that keeps equal texts together (revision 1) with groups of related texts (revision 2),
over seeds. Counts rows of four or more words. Also prints the share of validation rows, which no rule
changes, and the seconds of grouping.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.measure import make_parser
from raycomp.config.task import TaskSettings
from raycomp.data.overview import split_texts
from raycomp.data.related_texts import contained_share, group_related
from raycomp.data.tasks import load_task


def main() -> None:
    """Measure every task, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="directory with GLUE's files")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "mrpc"])
    parser.add_argument("--selection", type=float, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    for name in args.tasks:
        settings = TaskSettings(
            name=f"glue/{name}", folder=str(args.folder / name), selection=args.selection
        )
        shares = np.array([overlaps(settings, seed) for seed in range(args.seeds)])
        old, new, validation = shares.mean(0)
        print(
            f"{name}: selection rows contained in a training row: {old:.1%} with equal texts together, "
            f"{new:.1%} with related texts together (mean of {args.seeds} seeds, largest "
            f"{shares[:, 1].max():.1%}); validation rows: {validation:.1%}"
        )

        rows = split_texts(load_task(settings, 0).train)
        began = time.perf_counter()
        sizes = np.bincount(group_related(rows, max(10, round(0.1 * args.selection))))
        seconds = time.perf_counter() - began
        print(
            f"{name}: {len(rows):,} rows in {len(sizes):,} groups in {seconds:.1f} s; the largest group "
            f"has {sizes.max():,} rows"
        )


def overlaps(settings: TaskSettings, seed: int) -> tuple[float, float, float]:
    """Return the overlap of selection for both revisions, and of the first validation split."""
    old, new = (load_task(settings, seed, revision) for revision in (1, 2))
    train = split_texts(new.train)
    return (
        contained_share(split_texts(old.selection), split_texts(old.train)),
        contained_share(split_texts(new.selection), train),
        contained_share(split_texts(new.validation[0]), train),
    )


if __name__ == "__main__":
    main()
