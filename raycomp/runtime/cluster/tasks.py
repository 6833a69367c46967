"""Independent Ray tasks that run in parallel; the first failure ends all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raycomp.errors import UserError, first_line
from raycomp.runtime.cluster.connect import ray


def run_tasks(
    function: Callable[..., None],
    calls: Sequence[tuple[Any, ...]],
    resources: dict[str, Any],
    on_done: Callable[[int], None],
    max_parallel: int | None = None,
) -> None:
    """Call a function once for each tuple of arguments, each call in a Ray task.

    Args:
        function: Function that writes its result to a file.
        calls: Arguments of each call.
        resources: Resources of one task, such as {"num_cpus": 1.0}.
        on_done: Function that is called with the number of tasks that have ended.
        max_parallel: Number of tasks that may run at the same time. If absent: as many as the cluster has
            resources for.

    Raises:
        UserError: A task failed, or its process died again and again. The other tasks are cancelled. The
            files of tasks that have ended stay.
    """
    task = ray.remote(function).options(max_retries=3, **resources)
    max_parallel = max_parallel or len(calls)
    running = [task.remote(*call) for call in calls[:max_parallel]]
    not_started = list(calls[max_parallel:])

    while running:
        on_done(len(calls) - len(running) - len(not_started))
        ended, running = ray.wait(running, num_returns=1)
        if not_started:
            running.append(task.remote(*not_started.pop(0)))

        try:
            ray.get(ended)
        except ray.exceptions.RayError as error:
            # The user gets one message, and the cluster is free for the next command.
            for other in running:
                ray.cancel(other, force=True)
            # A task's own error says more than Ray's report of it.
            cause: object = first_line(error)
            if isinstance(error, ray.exceptions.RayTaskError):
                cause = error.cause
            raise UserError(f"{function.__name__.strip('_')}: {cause}") from error

    on_done(len(calls))
