"""Independent Ray tasks: run in parallel, watched, ended together when one fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raycomp.errors import UserError, first_line
from raycomp.runtime.cluster.connect import ray


def run_tasks(
    task: Callable[..., None],
    calls: Sequence[tuple[Any, ...]],
    resources: dict[str, Any],
    on_done: Callable[[int], None],
    max_parallel: int | None = None,
) -> None:
    """Call a function once per tuple of arguments, each call a task.

    Args:
        task: what to run; it leaves its result in a file.
        calls: arguments of each call.
        resources: what a task holds, such as {"num_cpus": 1.0}.
        on_done: called with how many have ended.
        at_once: how many may run; as many as find room, where absent.

    Raises:
        UserError: a task failed, or its process died again and again; those that wait are cancelled, the
            files of the others stay.
    """
    remote = ray.remote(task).options(max_retries=3, **resources)
    max_parallel = max_parallel or len(calls)
    waiting = [remote.remote(*call) for call in calls[:max_parallel]]
    left = list(calls[max_parallel:])
    while waiting:
        on_done(len(calls) - len(waiting) - len(left))
        done, waiting = ray.wait(waiting, num_returns=1)
        waiting += [remote.remote(*left.pop(0)) for _ in left[:1]]
        try:
            ray.get(done)
        except ray.exceptions.RayError as error:
            for other in waiting:
                ray.cancel(other, force=True)
            why = error.cause if isinstance(error, ray.exceptions.RayTaskError) else first_line(error)
            raise UserError(f"{task.__name__.strip('_')}: {why}") from error
    on_done(len(calls))
