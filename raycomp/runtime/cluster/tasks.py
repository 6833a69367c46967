"""Independent Ray tasks that run in parallel; the first failure ends all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycomp.errors import UserError, as_sentence, first_line
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.stack_traces import add_trace, describe_cause, save_stack_trace
from raycomp.runtime.cluster.waiting import Resources, WaitNotice


def run_tasks(
    function: Callable[..., None],
    calls: Sequence[tuple[Any, ...]],
    resources: dict[str, Any],
    on_done: Callable[[int], None],
    max_parallel: int | None = None,
    say: Callable[[str], None] | None = None,
    run_dir: Path | None = None,
    title: str = "",
) -> None:
    """Call a function once for each tuple of arguments, each call in a Ray task.

    Args:
        function: Function that writes its result to a file.
        calls: Arguments of each call.
        resources: Resources of one task, such as {"num_cpus": 1.0}.
        on_done: Function that is called with the number of tasks that have ended.
        max_parallel: Number of tasks that may run at the same time. If absent: as many as the cluster has
            resources for.
        say: Function that shows a line. It says that the tasks wait for resources.
        run_dir: Run directory that gets the stack trace of a failed task.
        title: The user's name of this work, such as "fine-tuning"; by default the function's name.

    Raises:
        UserError: A task failed, or its process died again and again. The other tasks are cancelled, as
            after Ctrl-C. The files of tasks that have ended stay.
    """
    title = title or function.__name__.strip("_").replace("_", " ")
    if calls and say is not None:
        _wait_for_resources(title, resources, say)
    task = ray.remote(function).options(max_retries=3, **resources)
    max_parallel = max_parallel or len(calls)
    running: list[Any] = []
    not_started = list(calls)

    with cancelling(running):
        while running or not_started:
            while not_started and len(running) < max_parallel:
                running.append(task.remote(*not_started.pop(0)))

            on_done(len(calls) - len(running) - len(not_started))
            ended, running[:] = ray.wait(running, num_returns=1)

            try:
                ray.get(ended)
            except ray.exceptions.RayError as error:
                cause = as_sentence(_describe(error, function.__name__.strip("_"), run_dir))
                raise UserError(
                    f"A task of the {title} failed: {cause} Correct this, then run the same command "
                    "again: finished tasks are not repeated."
                ) from error

    on_done(len(calls))


@contextmanager
def cancelling(references: list[Any]) -> Iterator[None]:
    """Run a block; if it fails or is interrupted, cancel tasks: the cluster is free for other work then.

    In a Ray session of the user's, they would otherwise continue, and nobody would get their results.

    Args:
        references: Tasks that run. The block may change the list.
    """
    try:
        yield
    except BaseException:
        # The error of the block is the one to show, also if the session is over.
        if ray.is_initialized():
            for reference in references:
                with contextlib.suppress(Exception):
                    ray.cancel(reference, force=True)
        raise


def _describe(error: Exception, source: str, run_dir: Path | None) -> str:
    """Return the cause of a failed task, with the file of its stack trace."""
    # A task's own error says more than Ray's report of it.
    if isinstance(error, UserError):
        return describe_cause(error)
    cause = first_line(error)
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = f"{type(error.cause).__name__}: {first_line(error.cause)}"
    if run_dir is None:
        return cause
    return add_trace(cause, save_stack_trace(run_dir, source, error))


def _wait_for_resources(title: str, resources: dict[str, Any], say: Callable[[str], None]) -> None:
    """Return when the cluster has the resources of one task. Until then, say that the run waits.

    A task without work waits in Ray's queue. An autoscaler then knows what is missing.
    """
    needs = Resources(resources.get("num_cpus", 1.0), resources.get("num_gpus", 0.0))
    available = ray.available_resources()
    has_cpus = available.get("CPU", 0.0) >= needs.cpus
    if has_cpus and available.get("GPU", 0.0) >= needs.gpus:
        return

    notice = WaitNotice(title, say)
    probe = ray.remote(_do_nothing).options(**resources).remote()
    with cancelling([probe]):
        while not ray.wait([probe], timeout=1)[0]:
            notice.update(needs)


def _do_nothing() -> None:
    """Show by running that there are resources for a task."""
