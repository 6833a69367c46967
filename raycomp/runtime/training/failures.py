"""When a training that failed is started again, and when it ends with a message.

Ray Train starts a training again from its last checkpoint, and it would count all failures of a training
alike. A training of days on many nodes has more failures than any fixed number. So only failures without
progress are counted: a checkpoint of a later step than all before sets the count back to 0.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import ray.train

from raycomp.errors import (
    DivergedError,
    MissingRankError,
    PermanentError,
    RankFailedError,
    TrainingEndedError,
    UserError,
    first_line,
)
from raycomp.runtime.cluster.stack_traces import add_trace, describe_cause, save_stack_trace

# Computed again from the same checkpoint, they fail again.
FINAL_KINDS = frozenset({DivergedError.__name__, PermanentError.__name__})

# Their messages are for users, so a stack trace would not help.
_USER_KINDS = frozenset({UserError.__name__, PermanentError.__name__})

_LATE_RANKS = re.compile(r"have not joined the collective operation: \[([\d, ]*)\]")


class FailureCounter(ray.train.UserCallback):
    """Ends a training that fails again and again without progress, and saves the stack traces.

    Ray Train's controller calls it. The controller is on the driver node, so it can write to the run
    directory.
    """

    def __init__(self, run_dir: str, training: str, max_failures: int) -> None:
        """Create a counter for one training.

        Args:
            run_dir: The run directory.
            training: Name of the training task.
            max_failures: Failures without progress after which the training is still started again.
        """
        self._run_dir = Path(run_dir)
        self._training = training
        self._max_failures = max_failures
        self._num_failures = 0
        self._last_step = 0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Notice progress: all ranks have reported, and the checkpoint is on the storage."""
        step = max((int(report["step"]) for report in metrics if "step" in report), default=0)
        if checkpoint is not None and step > self._last_step:
            self._last_step = step
            self._num_failures = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Count a failure.

        Raises:
            TrainingEndedError: The training must not be started again. Ray Train ends it then.
        """
        # Ray Train has a budget of its own for nodes that leave as announced.
        if any(_is_preempted(error) for error in worker_exceptions.values()):
            return

        self._num_failures += 1
        error = _main_error(worker_exceptions)
        trace = None
        if not _is_for_users(error):
            trace = save_stack_trace(self._run_dir, self._training, _all_traces(worker_exceptions))

        is_final = isinstance(error, RankFailedError) and error.kind in FINAL_KINDS
        if is_final or self._num_failures > self._max_failures:
            raise TrainingEndedError(add_trace(self._describe_end(error, is_final), trace))

    def _describe_end(self, error: Exception, is_final: bool) -> str:
        cause = describe_cause(error)
        if is_final or self._num_failures == 1:
            return cause
        return f"It failed {self._num_failures} times without a new checkpoint, at last: {cause}"


def describe_failure(error: Exception, seconds: float) -> RankFailedError:
    """Return the error of a rank in a form that reaches the controller and the driver.

    Ray Train passes on an error without its stack trace, and it cannot pass on each error of a library.

    Args:
        error: The error.
        seconds: The time limit of Ray Train's own barriers (`train.barrier_seconds`).
    """
    trace = "".join(traceback.format_exception(error))
    kind = type(error).__name__
    for cls in (UserError, PermanentError, DivergedError):
        # Ray makes an error of an actor a subclass of the error's class. The last match is the kind.
        if isinstance(error, cls):
            kind = cls.__name__

    match = _LATE_RANKS.search(str(error))
    if match is not None:
        return RankFailedError(MissingRankError.__name__, _late_message(match[1], seconds), trace)
    if isinstance(error, ray.exceptions.RayTaskError):
        return RankFailedError(kind, describe_cause(error), trace)
    if type(error).__module__.startswith("raycomp."):
        return RankFailedError(kind, str(error), trace)
    return RankFailedError(kind, f"{kind}: {first_line(error)}", trace)


def _late_message(ranks: str, seconds: float) -> str:
    noun = "Ranks" if "," in ranks else "Rank"
    return (
        f"{noun} {ranks} did not respond within {seconds:g} s (train.barrier_seconds). Check the node of "
        "that worker, then run the same command again: training resumes from the last checkpoint."
    )


def _main_error(errors: dict[int, Exception]) -> Exception:
    """Return the error that says most about the cause.

    If one worker hangs, several fail. The error that raycomp raised in a healthy worker says more than
    what Ray reports about the hung one.
    """
    ordered = [errors[rank] for rank in sorted(errors)]
    for error in ordered:
        if isinstance(error, RankFailedError) and error.kind in FINAL_KINDS:
            return error
    for error in ordered:
        if isinstance(error, RankFailedError):
            return error
    return ordered[0]


def _is_for_users(error: Exception) -> bool:
    return isinstance(error, RankFailedError) and error.kind in _USER_KINDS


def _is_preempted(error: Exception) -> bool:
    cause = getattr(error, "health_check_failure", error)
    return bool(getattr(cause, "preempted", False))


def _all_traces(errors: dict[int, Exception]) -> str:
    """Return the stack traces of all ranks that failed."""
    parts = []
    for rank, error in sorted(errors.items()):
        trace = error.trace if isinstance(error, RankFailedError) else str(error)
        parts.append(f"Rank {rank}\n\n{trace.rstrip()}\n")
    return "\n".join(parts)
