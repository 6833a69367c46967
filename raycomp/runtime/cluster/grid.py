"""A grid of trials that Ray Tune runs in parallel: the deployment search, AdaBERT's sweep, a study."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import FailureConfig, ResultGrid, RunConfig, TuneConfig, Tuner

from raycomp.errors import ProcessLostError, UserError, as_sentence
from raycomp.runtime.cluster.stack_traces import describe_cause

Trial = dict[str, Any]

ONLY_WAITS = {"cpu": 0, "memory": 1}
"""Resources of a trial that waits for tasks of its own.

A trial must ask for something, so it asks for one byte. A small share of a CPU would keep a whole CPU
from the workers that the trial waits for.
"""


REASON = "failed_because"
"""Metric of a trial that ended with a UserError: its message."""


@dataclass(frozen=True)
class TrialResult:
    """How one trial of a grid ended.

    Attributes:
        trial: The trial, as it was given to `run_grid`.
        metrics: What the function returned for it; empty if the trial failed.
        error: Cause of the error that ended the trial; empty if it finished.
    """

    trial: Trial
    metrics: dict[str, Any]
    error: str

    @property
    def is_permanent(self) -> bool:
        """Whether the same trial would fail again."""
        return REASON in self.metrics


def describe_failed_trials(results: Sequence[TrialResult], what: str) -> str:
    """Return the message about the trials that failed; empty if all finished.

    Args:
        results: Answer of `run_grid`.
        what: What the trials belong to, such as "the search".
    """
    failed = [result for result in results if result.error]
    if not failed:
        return ""
    # The message of a permanent error has its own remedy, and trials that fail later may only follow it.
    first = min(failed, key=lambda result: not result.is_permanent)
    remedy = "Run the same command again: finished trials are not repeated."
    if first.is_permanent:
        remedy = "Finished trials are not repeated when the same run starts again."
    cause = as_sentence(first.error)
    return f"{len(failed)} of {len(results)} trials of {what} failed: {cause} {remedy}"


def run_grid(
    trials: Sequence[Trial],
    run_trial: Callable[[Trial], dict[str, Any]],
    *,
    name: str,
    folder: Path,
    max_parallel: int,
    resources: dict[str, float] | None = None,
    max_failures: int = 0,
    reuse_processes: bool = False,
) -> list[TrialResult]:
    """Run a function once for each trial, in parallel, and return how each trial ended.

    A trial itself writes its lasting results to the run directory. Ray Tune's own files, in
    `folder`/tune, are never read back. They are removed when every trial has finished.

    Example:
        >>> results = run_grid(
        ...     [{"seed": 0}, {"seed": 1}],
        ...     lambda trial: {"value": trial["seed"] / 2},
        ...     name="example",
        ...     folder=run_dir,
        ...     max_parallel=2,
        ... )  # doctest: +SKIP
        >>> [result.metrics["value"] for result in results]  # doctest: +SKIP
        [0.0, 0.5]

    Args:
        trials: Arguments of each trial, as JSON-like values.
        run_trial: Function of one trial that returns its metrics. Ray sends it to other processes.
        name: Name of the grid; it is unique within `folder`.
        folder: Directory on the driver node whose name is unique in the cluster, such as a run directory.
        max_parallel: Number of trials that may run at the same time.
        resources: Resources of one trial; `ONLY_WAITS` if absent.
        max_failures: How often a trial is started again whose process died, or that raised an error other
            than a UserError. The same trial would give a UserError again, except for a ProcessLostError.
        reuse_processes: Whether one process may run several trials, one after the other. This saves time
            if a trial leaves no state in its process.

    Returns:
        One result for each trial, in the order of `trials`.

    Raises:
        KeyboardInterrupt: The user interrupted the grid.
    """

    # Tune finds functions by name, and a Ray job has one list of names: the runs of a study may search at
    # the same time.
    trainable = _make_trainable(run_trial, f"{name}-{folder.name}")
    tuner = Tuner(
        tune.with_resources(trainable, resources or ONLY_WAITS),
        param_space={"trial": tune.grid_search(list(trials))},
        tune_config=TuneConfig(max_concurrent_trials=max_parallel, reuse_actors=reuse_processes),
        run_config=RunConfig(
            name=name,
            storage_path=str(folder / "tune"),
            verbose=0,
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    results = _read_results(tuner.fit(), len(trials))

    if not any(result.error for result in results):
        _remove_tune_files(folder / "tune", name)
    return results


def _make_trainable(
    run_trial: Callable[[Trial], dict[str, Any]], name: str
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def run_one(config: dict[str, Any]) -> dict[str, Any]:
        try:
            metrics = run_trial(config["trial"])
        except ProcessLostError:
            raise
        except UserError as error:
            # Returned, because Ray Tune starts a trial again after any error.
            return {"finished": True, REASON: describe_cause(error)}
        return {"finished": True, **metrics}

    run_one.__name__ = name
    return run_one


def _read_results(grid: ResultGrid, num_trials: int) -> list[TrialResult]:
    results = []
    for result in grid:
        trial = (result.config or {}).get("trial", {})
        metrics = result.metrics or {}

        if result.error is not None:
            results.append(TrialResult(trial, {}, describe_cause(result.error)))
        elif metrics.get("finished"):
            results.append(TrialResult(trial, metrics, metrics.get(REASON, "")))

    # Tune catches the interrupt itself, and ends its trials without an error.
    if len(results) < num_trials:
        raise KeyboardInterrupt
    return results


def _remove_tune_files(storage: Path, name: str) -> None:
    shutil.rmtree(storage / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        storage.rmdir()
