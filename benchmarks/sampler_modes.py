"""EE-SNG against its halves and against cost-stratified sampling: networks of equal trainings.

    python -m benchmarks.sampler_modes jobs/quickstart.toml [--seeds 12] [--shares 0.5 0.25]
        [--networks 50] [--modes eesng exploit explore stratified] [--set KEY=VALUE]

Each seed has a split, a teacher and the order of its rows. With them, each mode trains a super-network,
without Ray, for the same number of steps on the same rows:

- `eesng`: the controller decides between the two next modes (`train.mode = "eesng"`);
- `exploit`: always from theta (`train.mode = "exploit"`);
- `explore`: always uniformly for each choice (`train.mode = "explore"`);
- `stratified`: sizes are uniform from the smallest to the largest network (`train.cost_share = 1`).

The endpoint does not read theta: for each seed, 50 networks are drawn uniformly and fitted to each share
of the encoder's parameters, and their label losses with inherited weights are computed on the selection
split. All modes of a seed have the same networks. Classification only.

Prints the mean loss of each mode, and the mean difference eesng - mode with Student's 95% interval over
the seeds; below 0, EE-SNG has the lower loss. `num_tokens` is the mean of the tokens of the trainings.

Writes OUT/sampler_modes.json (OUT is runs/sampler-modes) after each training. A later call with the same
settings reads the finished trainings from it and continues. `--summary` only prints what is there.
On the demo's job, the 48 trainings and 12 teachers take some hours on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.intervals import student_interval
from benchmarks.measure import make_parser
from benchmarks.recipe import CPU, Recipe
from benchmarks.signal import draw_networks, make_budget, score_rows
from raycomp.config.job import Job
from raycomp.config.loader import load_job
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.context import RunContext
from raycomp.storage.files import read_json, write_json
from raycomp.training.optimizers import resolve_precision

REFERENCE = "eesng"
MODES: dict[str, tuple[str, ...]] = {
    REFERENCE: ("train.mode=eesng", "train.cost_share=0", "train.budget_share=0"),
    "exploit": ("train.mode=exploit", "train.cost_share=0", "train.budget_share=0"),
    "explore": ("train.mode=explore", "train.cost_share=0", "train.budget_share=0"),
    "stratified": ("train.mode=explore", "train.cost_share=1", "train.budget_share=0"),
}
"""Mode -> settings of its training."""

Row = dict[str, Any]

Train = Callable[[Job, int, str], list[Row]]
"""Maps a job, its seed and its mode to one row for each share."""


def main() -> None:
    """Train what is missing, and print the differences."""
    args = parse_arguments()
    path = args.out / "sampler_modes.json"
    jobs = {
        (seed, mode): load_mode_job(args.job, args.overrides, seed, mode)
        for seed in range(args.seeds)
        for mode in args.modes
    }

    def train(job: Job, seed: int, mode: str) -> list[Row]:
        base = load_job(args.job, [*args.overrides, f"run.seed={seed}"])
        return train_and_score(job, args.out / base.run_id, args.shares, args.networks)

    if not args.summary:
        complete_rows(path, jobs, args.shares, args.networks, train)
    rows = select_rows(read_rows(path), jobs, args.shares, args.networks)
    if not rows:
        raise SystemExit(f"{path} has no finished training of this job. Run without --summary.")
    print(summarise(rows).to_string(index=False, float_format="{:.4f}".format))


def load_mode_job(job: str, overrides: Sequence[str], seed: int, mode: str) -> Job:
    """Return the job of one training."""
    return load_job(job, [*overrides, f"run.seed={seed}", *MODES[mode]])


def complete_rows(
    path: Path,
    jobs: dict[tuple[int, str], Job],
    shares: Sequence[float],
    num_networks: int,
    train: Train,
) -> None:
    """Train every job whose rows are not in the file, and add its rows.

    Args:
        path: The file of rows.
        jobs: (seed, mode) -> job of the training.
        shares: Shares of the encoder's parameters.
        num_networks: Networks of each share.
        train: Trains one job; returns a row for each share.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for (seed, mode), job in jobs.items():
        rows = read_rows(path)
        if len(select_rows(rows, {(seed, mode): job}, shares, num_networks)) == len(shares):
            continue
        place = {"seed": seed, "mode": mode, "run": job.run_id}
        new = [{**place, "num_networks": num_networks, **row} for row in train(job, seed, mode)]
        write_json(path, {"rows": [*rows, *new]})
        print(f"seed {seed}, {mode}: done", flush=True)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; empty where it does not exist."""
    return list(read_json(path)["rows"]) if path.exists() else []


def select_rows(
    rows: Sequence[Row], jobs: dict[tuple[int, str], Job], shares: Sequence[float], num_networks: int
) -> list[Row]:
    """Return the rows of given jobs, shares and number of networks."""
    runs = {job.run_id for job in jobs.values()}
    return [
        row
        for row in rows
        if row["run"] in runs and row["share"] in shares and row["num_networks"] == num_networks
    ]


def train_and_score(job: Job, folder: Path, shares: Sequence[float], num_networks: int) -> list[Row]:
    """Train a super-network; return one row for each share.

    Args:
        job: The job, with its mode and seed.
        folder: Directory of the tokens and the teacher, which all modes of a seed share.
        shares: Shares of the encoder's parameters.
        num_networks: Networks of each share.
    """
    context = RunContext(job, folder)
    recipe = Recipe(context, resolve_precision(job.train.precision, CPU))
    teacher = recipe.train_teacher(folder)
    supernet, _, num_tokens = recipe.train_supernet(teacher)
    return [
        {"share": share, "num_tokens": num_tokens, **score_share(context, supernet, share, num_networks)}
        for share in shares
    ]


def score_share(
    context: RunContext, supernet: ElasticEncoder, share: float, num_networks: int
) -> dict[str, float]:
    """Return the mean selection loss and accuracy of uniform networks that are fitted to a share."""
    rng = np.random.default_rng([context.job.run.seed, round(1000 * share)])
    archs = draw_networks(context, make_budget(context, share), num_networks, rng)
    losses, hits = score_rows(supernet, archs, context.tokens("selection"), context)
    return {"loss": float(losses.mean()), "accuracy": float(hits.mean()), "fitted": len(archs)}


def summarise(rows: Sequence[Row]) -> pd.DataFrame:
    """Return a row for each share and mode, with the difference of EE-SNG from it.

    Args:
        rows: Rows of `sampler_modes.json`, of one job.
    """
    table = pd.DataFrame(rows)
    lines = []
    for share, part in table.groupby("share", sort=False):
        losses = part.pivot_table(index="seed", columns="mode", values="loss")
        for mode in (mode for mode in MODES if mode in losses.columns):
            own = part[part["mode"] == mode]
            line = {"share": share, "mode": mode, "loss": own["loss"].mean()}
            line |= {"accuracy": own["accuracy"].mean(), "num_tokens": own["num_tokens"].mean()}
            if REFERENCE in losses.columns:
                differences = (losses[REFERENCE] - losses[mode]).dropna().to_numpy()
                low, high = student_interval(differences)
                line |= {"seeds": len(differences), "eesng_minus": differences.mean()}
                line |= {"low": low, "high": high}
            lines.append(line)
    return pd.DataFrame(lines)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("job", help="job file")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=12, help="values of run.seed, from 0")
    parser.add_argument("--modes", nargs="+", choices=tuple(MODES), default=list(MODES))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--networks", type=int, default=50, help="networks of each share")
    parser.add_argument("--out", type=Path, default=Path("runs/sampler-modes"))
    parser.add_argument("--summary", action="store_true", help="only print")
    return parser.parse_args()


if __name__ == "__main__":
    main()
