"""The deployment search on Ray Tune: one trial for each (group of budgets, searcher, seed), in parallel.

A trial is a pure function of the job, theta and the scores, and every score comes from the ledger. An
interrupted trial is therefore run again: it asks for the same architectures, and only those without a
score are evaluated. Ray Tune's own (pickled) state is never read back.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.errors import UserError
from raycomp.runtime.cluster.capacity import total_cpus
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.grid import Trial, describe_failed_trials, run_grid
from raycomp.runtime.cluster.progress import polling
from raycomp.runtime.cluster.waiting import WaitNotice
from raycomp.runtime.scoring.evaluator_pool import FIRST_PASS_FACTOR
from raycomp.search.budget_groups import evaluation_budget
from raycomp.search.device_budgets import DeviceState
from raycomp.search.outcome import Outcome
from raycomp.search.search_loop import (
    SearchLoop,
    SearchTrial,
    infeasible_reason,
    search_groups,
)
from raycomp.search.setup import SearchSetup
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout

# The evaluators have the CPUs; a trial only waits for scores.
TRIAL_RESOURCES = {"cpu": 0.001}

POOL_TIMEOUT_SECONDS = 10.0
"""How long the driver waits for the ledger's answer about its evaluators."""

FIRST_PASS_NOTICE_SECONDS = 120.0
"""Time without any score after which the user is told."""

SearchProgress = Callable[[int, int, dict[str, float]], None]
"""Function of evaluations done, evaluations in all, and the best score so far of each budget."""


def search_budgets(
    setup: SearchSetup,
    ledger: Any,
    precision: str,
    on_progress: SearchProgress,
    say: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Search every budget of a job. Trials that have an outcome already are not run again.

    Args:
        setup: Job with the shape of its network.
        ledger: Actor of the ledger.
        precision: Precision of the evaluations, such as "fp32".
        on_progress: Function that is called twice a second.
        say: Function that shows a line. It names evaluators that are lost, and what they wait for.

    Returns:
        One outcome for each budget, searcher and seed, in this order.

    Raises:
        UserError: A trial failed.
    """
    job = setup.job
    groups = search_groups(setup)
    pairs = list(itertools.product(job.search.searchers, job.search.seeds))

    def outcome_paths(names: list[str], searcher: str, seed: int) -> list[Path]:
        return [setup.files.search_outcome(name, searcher, seed) for name in names]

    open_trials = []
    for group, (searcher, seed) in itertools.product(groups, pairs):
        names = [budget.name for budget in group.members]
        if not all(path.exists() for path in outcome_paths(names, searcher, seed)):
            open_trials.append(SearchTrial(group.name, searcher, seed))
    if open_trials:
        _run_trials(setup, ledger, precision, open_trials, on_progress, say)

    names = [budget.name for budget in job.budget]
    paths = [path for name in names for pair in pairs for path in outcome_paths([name], *pair)]
    missing = [path.stem for path in paths if not path.exists()]
    if missing:
        raise UserError(
            f"The search of {', '.join(missing)} ended without an outcome. Run the same "
            "command again: it runs only these trials."
        )
    return [_read_outcome(path) for path in paths]


def delete_outcomes(run_dir: Path, method: str = "yoco") -> None:
    """Delete the outcomes of a method's trials. Each trial then runs again.

    A trial then asks for the same architectures as before. The ledger evaluates only those without a
    score.
    """
    for path in RunLayout(run_dir).method(method).search_outcomes():
        path.unlink()


def _read_outcome(path: Path) -> Outcome:
    try:
        return Outcome(**read_json(path))
    except TypeError as error:
        raise UserError(
            f"{path} is not an outcome of the search ({error}). Move it away and run the same "
            "command again."
        ) from None


def _run_trials(
    setup: SearchSetup,
    ledger: Any,
    precision: str,
    trials: list[SearchTrial],
    on_progress: SearchProgress,
    say: Callable[[str], None],
) -> None:
    job = setup.job.model_dump(mode="json")
    run_dir = setup.run_dir
    method = setup.method
    shape = setup.shape.to_dict()
    theta = setup.sampler_state()
    device = setup.device.to_dict()

    def run_one(trial: Trial) -> dict[str, Any]:
        network = EncoderShape.from_dict(shape)
        remote_setup = SearchSetup(
            parse_job(job), run_dir, network, method=method, device=DeviceState.from_dict(device)
        )
        outcomes = run_trial(remote_setup, theta, ledger, precision, SearchTrial(**trial))
        return {"value": max(outcome.value if outcome.arch else -1.0 for outcome in outcomes)}

    watcher = _ProgressWatcher(setup, ledger, len(trials), on_progress)
    pool_watcher = _PoolWatcher(ledger, say)

    def poll() -> None:
        watcher.update()
        pool_watcher.update()

    with polling(poll):
        results = run_grid(
            [asdict(trial) for trial in trials],
            run_one,
            name=f"search-{method}",
            folder=run_dir,
            max_parallel=min(len(trials), max(4, 2 * total_cpus())),
            resources=TRIAL_RESOURCES,
            max_failures=3,
            # A trial is a function of its arguments.
            reuse_processes=True,
        )

    if problem := describe_failed_trials(results, "the search"):
        raise UserError(problem)


class _ProgressWatcher:
    """Asks the ledger for new scores, and reports the best score of each budget."""

    def __init__(
        self, setup: SearchSetup, ledger: Any, num_trials: int, on_progress: SearchProgress
    ) -> None:
        search = setup.job.search
        num_groups = len(search_groups(setup))
        total, shared = evaluation_budget(
            search.evaluations, search.shared_fraction, num_groups, setup.space.num_architectures()
        )

        self._ledger = ledger
        self._on_progress = on_progress
        self._budgets = {b.name: setup.budget(b) for b in setup.job.budget}
        self._best: dict[str, float] = {}
        self._num_done = 0
        # At most: trials of one seed share the initial set, and may ask for the same architectures later.
        self._num_expected = shared * len(search.seeds) + (total - shared) * num_trials

    def update(self) -> None:
        """Report the scores that joined since the last call."""
        scores: list[tuple[str, float]] = []
        # The ledger may be restarting; its scores then come with the next call.
        with contextlib.suppress(ray.exceptions.RayError):
            reply = self._ledger.list_scores.remote(self._num_done)
            scores = ray.get(reply, timeout=POOL_TIMEOUT_SECONDS)

        self._num_done += len(scores)
        for text, value in scores:
            arch = Architecture.from_json(text)
            for name, budget in self._budgets.items():
                if value > self._best.get(name, -math.inf) and budget.is_met_by(arch):
                    self._best[name] = value

        self._on_progress(self._num_done, max(self._num_expected, self._num_done), self._best)


class _PoolWatcher:
    """Names evaluators that are lost, and says that all of them wait for resources."""

    def __init__(self, ledger: Any, say: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._say = say
        self._notice = WaitNotice("search", say)
        self._num_losses = 0
        self._next_first_pass_seconds = FIRST_PASS_NOTICE_SECONDS

    def update(self) -> None:
        """Ask the ledger for the state of the evaluators."""
        # The ledger may be restarting.
        with contextlib.suppress(ray.exceptions.RayError):
            status = ray.get(self._ledger.describe_pool.remote(), timeout=POOL_TIMEOUT_SECONDS)
            for cause in status.losses[self._num_losses :]:
                self._say(
                    f"An evaluator is lost ({cause}). The search continues with {status.num_left} others."
                )
            self._num_losses = len(status.losses)
            self._notice.update(status.missing)
            self._describe_first_pass(status.first_pass_seconds)

    def _describe_first_pass(self, seconds: float) -> None:
        """Say that the first score is missing, after 2, 4, 8 and more minutes."""
        if seconds < self._next_first_pass_seconds:
            return
        self._next_first_pass_seconds = 2 * seconds
        self._say(
            f"search waits for its first score: the evaluators have computed for {seconds:.0f} s. A "
            f"first pass is ended after {FIRST_PASS_FACTOR} times train.barrier_seconds."
        )


def run_trial(
    setup: SearchSetup, theta: dict[str, Any], ledger: Any, precision: str, trial: SearchTrial
) -> list[Outcome]:
    """Run one trial and let the ledger write the outcome of each budget of its group.

    The ledger writes them because this process may be on a node that cannot access the run directory.

    Args:
        setup: Job with the shape of its network.
        theta: State of the trained sampler.
        ledger: Actor of the ledger.
        precision: Precision of the evaluations.
        trial: The trial.
    """
    start = time.perf_counter()
    group = next(group for group in search_groups(setup) if group.name == trial.budget)
    loop: SearchLoop | None = None
    if not all(infeasible_reason(setup, budget) for budget in group.members):
        loop = SearchLoop(setup, theta, trial)
        _score_all(loop, ledger, precision)
    seconds = time.perf_counter() - start

    outcomes = []
    for settings in group.members:
        reason = infeasible_reason(setup, settings)
        arch: str | None = None
        value = loss = 0.0
        if loop is not None and not reason:
            best, value, loss = loop.best(settings.name)
            arch = best.to_json()
        outcome = Outcome(
            settings.name, settings.kind, setup.limit(settings), trial.searcher, trial.seed, arch,
            value, loss, loop.num_evaluations if loop is not None and arch else 0, seconds, reason,
        )  # fmt: skip
        ray.get(ledger.record_outcome.remote(asdict(outcome)))
        outcomes.append(outcome)
    return outcomes


def _score_all(loop: SearchLoop, ledger: Any, precision: str) -> None:
    """Have the ledger score what a loop asks for, until it asks for nothing more."""

    def score(archs: list[Architecture]) -> list[dict[str, Any]]:
        texts = [arch.to_json() for arch in archs]
        return ray.get(ledger.score.remote(texts, "selection", precision))

    while archs := loop.ask():
        rows = score(archs)
        values = [float(row["value"]) for row in rows]
        losses = [float(row["loss"]) for row in rows]
        loop.tell(archs, values, losses)

    # If the ledger died during the search, it lost the rows that it had not written. They are
    # evaluated again.
    score(loop.archs)
