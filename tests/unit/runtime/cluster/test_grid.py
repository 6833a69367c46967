"""Trials of a grid: which errors start a trial again, and what the user reads about those that failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from raycomp.errors import ProcessLostError, UserError
from raycomp.runtime.cluster import grid
from raycomp.runtime.cluster.grid import TrialResult, describe_failed_trials, run_grid


class FakeTuner:
    """Ray Tune in this process: it starts a trial again after any error, as Ray Tune does."""

    def __init__(self, trainable: Any, *, param_space: Any, run_config: Any, **_: Any) -> None:
        self._trainable = trainable
        self._trials = param_space["trial"]["grid_search"]
        self._max_failures = run_config.failure_config.max_failures

    def fit(self) -> list[SimpleNamespace]:
        return [self._run(trial) for trial in self._trials]

    def _run(self, trial: dict[str, Any]) -> SimpleNamespace:
        config = {"trial": trial}
        error = None
        for _ in range(1 + self._max_failures):
            try:
                metrics = self._trainable(config)
                return SimpleNamespace(config=config, metrics=metrics, error=None)
            except Exception as raised:
                error = raised
        return SimpleNamespace(config=config, metrics=None, error=error)


def from_another_process(error: Exception) -> Exception:
    """Return an error of a remote task as `ray.get` raises it."""
    kind = type(error)
    text = f"ray::work()\n  File x\n{kind.__module__}.{kind.__name__}: {error}"
    remote: Exception = ray.exceptions.RayTaskError("work", text, error).as_instanceof_cause()
    return remote


def run_failing(
    monkeypatch: pytest.MonkeyPatch, folder: Path, make_error: Callable[[], Exception]
) -> tuple[TrialResult, int]:
    """Run a trial that always fails, and return its result and the number of its attempts."""
    monkeypatch.setattr(grid, "Tuner", FakeTuner)
    monkeypatch.setattr(grid.tune, "with_resources", lambda trainable, resources: trainable)
    attempts: list[Any] = []

    def run_trial(trial: dict[str, Any]) -> dict[str, Any]:
        attempts.append(trial)
        raise make_error()

    (result,) = run_grid(
        [{"seed": 0}], run_trial, name="heal", folder=folder, max_parallel=1, max_failures=3
    )
    return result, len(attempts)


def test_a_loss_that_is_not_finite_is_computed_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The training's own counter of failures has decided that another attempt gives the same loss."""
    message = "Training task heal.1 failed. The loss is nan at step 3. Lower train.learning_rate."
    for error in (UserError(message), from_another_process(UserError(message))):
        result, num_attempts = run_failing(monkeypatch, tmp_path, lambda error=error: error)  # type: ignore[misc]
        assert num_attempts == 1
        assert (result.trial, result.error) == ({"seed": 0}, message)
        assert describe_failed_trials([result], "heal") == (
            f"1 of 1 trials of heal failed: {message} Finished trials are not repeated when the same run "
            "starts again."
        )


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.ActorDiedError(),
        from_another_process(ProcessLostError("Training task heal.1 failed. A node has died.")),
    ],
)
def test_a_trial_whose_processes_died_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    result, num_attempts = run_failing(monkeypatch, tmp_path, lambda: error)
    assert num_attempts == 4
    assert describe_failed_trials([result], "heal").endswith(
        ". Run the same command again: finished trials are not repeated."
    )


def test_the_message_names_an_error_that_would_come_again() -> None:
    lost = TrialResult({}, {}, "The node has died")
    diverged = TrialResult({}, {grid.REASON: "The loss is nan."}, "The loss is nan.")
    finished = TrialResult({}, {"value": 0.5}, "")
    assert describe_failed_trials([finished], "heal") == ""
    assert describe_failed_trials([lost, finished, diverged], "heal").startswith(
        "2 of 3 trials of heal failed: The loss is nan. Finished trials"
    )
