"""Ray Tune runs the deployment search: one trial per (budget, searcher, seed), in parallel.

A trial is a pure function of the job, theta and the scores, and every score comes from the ledger.
So an interrupted trial is simply run again: it walks the same path, and pays only for the
architectures that were not scored before. Nothing of Tune's own (pickled) state is read back.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner

from raycomp.config.job import Job
from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.errors import UserError
from raycomp.runtime.cluster.capacity import total_cpus
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.progress import polling
from raycomp.runtime.scoring.ledger import outcome_path
from raycomp.search.searchers import (
    Searcher,
    best_index,
    cheapest_architecture,
    make_searcher,
    shared_initial_set,
)
from raycomp.search.setup import SearchSetup
from raycomp.storage.files import read_json

MAX_SHARED_OVERHEAD = 0.3  # evaluations of all budgets together, over those of one


@dataclass(frozen=True)
class Outcome:
    """What one trial found.

    Attributes:
        budget, kind, limit: the budget, its kind, and its absolute limit.
        searcher, seed: who searched.
        arch: canonical JSON of the best feasible architecture, or None.
        value, loss: its score on the selection split.
        evaluations: architectures that the trial asked for, cached or not.
        seconds: wall time.
        reason: why there is no architecture, else empty.
    """

    budget: str
    kind: str
    limit: float
    searcher: str
    seed: int
    arch: str | None
    value: float
    loss: float
    evaluations: int
    seconds: float
    reason: str = ""


def search_budgets(
    context: SearchSetup,
    ledger: Any,
    precision: str,
    on_progress: Callable[[int, int, dict[str, float]], None],
) -> list[Outcome]:
    """Search every budget; trials that ended before are not run again."""
    job, run_dir = context.job, context.run_dir
    trials: list[dict[str, Any]] = [
        {"budget": b.name, "searcher": s, "seed": seed}
        for b in job.budget
        for s in job.search.searchers
        for seed in job.search.seeds
    ]
    paths = [outcome_path(run_dir, t["budget"], t["searcher"], t["seed"]) for t in trials]
    open_trials = [t for t, p in zip(trials, paths, strict=True) if not p.exists()]
    if open_trials:
        _tune(context, ledger, precision, open_trials, on_progress)
    missing = [p.stem for p in paths if not p.exists()]
    if missing:
        raise UserError(f"the search of {', '.join(missing)} failed; run the job again")
    return [_outcome(p) for p in paths]


def delete_outcomes(run_dir: Path) -> None:
    """Let every trial run again: it asks for the same architectures, and the ledger for what it lacks."""
    for path in (run_dir / "search").glob("*.*.*.json"):
        path.unlink()


def _outcome(path: Path) -> Outcome:
    try:
        return Outcome(**read_json(path))
    except TypeError as error:
        raise UserError(f"{path} is no outcome of a search ({error}); move it away") from None


def _tune(
    context: SearchSetup,
    ledger: Any,
    precision: str,
    trials: list[dict[str, Any]],
    on_progress: Callable[[int, int, dict[str, float]], None],
) -> None:
    data, run_dir = context.job.model_dump(mode="json"), context.run_dir
    shape, theta = context.shape.to_dict(), context.sampler_state()

    def trial(config: dict[str, Any]) -> dict[str, float]:
        chosen = config["trial"]
        outcome = run_trial(
            SearchSetup(parse_job(data), run_dir, EncoderShape.from_dict(shape)),
            theta, ledger, precision,
            chosen["budget"], chosen["searcher"], chosen["seed"],
        )  # fmt: skip
        return {"value": outcome.value if outcome.arch else -1.0}

    # Tune knows functions by name, one a Ray job: runs of a study search at the same time.
    trial.__name__ = f"search-{run_dir.name}"
    tuner = Tuner(
        # Trials wait for scores; the processors belong to the evaluators.
        tune.with_resources(trial, {"cpu": 0.001}),
        param_space={"trial": tune.grid_search(trials)},
        tune_config=TuneConfig(
            max_concurrent_trials=min(len(trials), max(4, 2 * total_cpus())),
            reuse_actors=True,  # a trial is a function of its arguments: a process serves several
        ),
        run_config=RunConfig(
            name="search",
            storage_path=str(run_dir / "tune"),
            verbose=0,
            # A trial whose process died begins again, and walks the same path through the ledger.
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    total = _expected(context, len(trials))
    budgets = {b.name: context.budget(b) for b in context.job.budget}
    best: dict[str, float] = {}
    done = 0

    def look() -> None:
        nonlocal done
        found: list[tuple[str, float]] = []
        with contextlib.suppress(ray.exceptions.RayError):  # of a ledger that is starting again
            found = ray.get(ledger.list_scores.remote(done))
        done += len(found)
        for text, value in found:
            arch = Architecture.from_json(text)
            for name, budget in budgets.items():
                if value > best.get(name, -math.inf) and budget.is_met_by(arch):
                    best[name] = value
        on_progress(done, max(total, done), best)

    with polling(look):
        results = tuner.fit()
    if results.errors:
        raise UserError(f"the search failed: {str(results.errors[0]).strip().splitlines()[-1]}")
    shutil.rmtree(run_dir / "tune", ignore_errors=True)  # outcomes and rows hold all that counts


def _expected(context: SearchSetup, trials: int) -> int:
    """Return how many evaluations all trials together will need at most."""
    total, shared = evaluation_budget(context.job, context.space.num_architectures())
    return shared * len(context.job.search.seeds) + (total - shared) * trials


def evaluation_budget(job: Job, size: int) -> tuple[int, int]:
    """Return how many evaluations a trial may ask for, and how many of them all budgets share.

    Where search.shared_fraction is absent, so many are shared that all budgets together need at most
    1.3 times the evaluations of one.
    """
    search = job.search
    total = min(search.evaluations, size)
    if search.shared_fraction is not None:
        return total, min(total, math.ceil(total * search.shared_fraction))
    others = len(job.budget) - 1
    return total, total - math.floor(MAX_SHARED_OVERHEAD * total / others) if others else 0


def run_trial(
    context: SearchSetup,
    theta: dict[str, Any],
    ledger: Any,
    precision: str,
    name: str,
    searcher: str,
    seed: int,
) -> Outcome:
    """Run one trial; the ledger writes its outcome, for the trial may run where the folder is not seen.

    Every budget of a job is told the same opening set first, so that budgets share most of their
    evaluations; then the searcher asks on its own until `search.evaluations` are told.
    """
    began = time.perf_counter()
    job = context.job
    settings = next(b for b in job.budget if b.name == name)
    space, budget = context.space, context.budget(settings)
    limit, cost = budget.limit, budget.cost

    def record(arch: Architecture | None, value: float, loss: float, asked: int, why: str) -> Outcome:
        outcome = Outcome(
            name, settings.kind, limit, searcher, seed, arch.to_json() if arch else None,
            value, loss, asked, time.perf_counter() - began, why,
        )  # fmt: skip
        ray.get(ledger.record_outcome.remote(asdict(outcome)))
        return outcome

    smallest, least = cheapest_architecture(space, cost)
    if least > limit:
        why = describe_infeasible_budget(name, settings.kind, limit, least)
        return record(None, 0.0, 0.0, 0, why)
    whole_seed = job.run.seed * 10_007 + seed
    search: Searcher = make_searcher(searcher, space, theta, budget, whole_seed)
    archs: list[Architecture] = []
    known: set[Architecture] = set()
    values: list[float] = []
    losses: list[float] = []

    def tell(batch: list[Architecture]) -> None:
        rows = ray.get(ledger.score.remote([a.to_json() for a in batch], "selection", precision))
        found = [float(r["value"]) for r in rows]
        lost = [float(r["loss"]) for r in rows]
        search.tell(batch, found, lost)
        archs.extend(batch)
        known.update(batch)
        values.extend(found)
        losses.extend(lost)

    total, shared = evaluation_budget(job, space.num_architectures())
    if shared:
        every = [context.budget(b) for b in job.budget]
        tell(shared_initial_set(space, theta, every, shared, whole_seed))
    while (before := len(known)) < total:
        tell(search.ask(min(job.search.batch, total - before)))
        if len(known) == before:
            break  # the searcher has nothing new to ask: the space, or what it can reach, is done
    index = best_index(archs, values, losses, budget)
    asked = len(known)
    if index is None:
        # The smallest network is feasible, so it is the answer of last resort, scored like others.
        tell([smallest])
        index, asked = len(archs) - 1, asked + 1
    # A ledger that died on the way has lost the rows that it had not written: they are scored again.
    ray.get(ledger.score.remote([a.to_json() for a in archs], "selection", precision))
    return record(archs[index], values[index], losses[index], asked, "")


def describe_infeasible_budget(name: str, kind: str, limit: float, least: float) -> str:
    """Say why a budget cannot be met, and the nearest value that can."""
    return (
        f"budget {name}: {kind} <= {limit:,.0f} cannot be met; the smallest network of the space has "
        f"{least:,.0f}. Nearest: {least:,.0f}. To go lower add a smaller value to space.ffn, "
        "space.heads or space.depth"
    )
