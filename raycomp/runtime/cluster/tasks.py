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
from raycomp.runtime.cluster.waiting import NodeWatch, Resources, WaitNotice

POLL_SECONDS = 1.0
"""Time between two looks at the cluster while no task ends."""


def run_tasks(
    function: Callable[..., None],
    calls: Sequence[tuple[Any, ...]],
    resources: dict[str, Any],
    on_done: Callable[[int], None],
    max_parallel: int | None = None,
    say: Callable[[str], None] | None = None,
    run_dir: Path | None = None,
    title: str = "",
    node_seconds: float | None = None,
) -> None:
    """Call a function once for each tuple of arguments, each call in a Ray task.

    Args:
        function: Function that writes its result to a file.
        calls: Arguments of each call.
        resources: Resources of one task, such as {"num_cpus": 1.0}.
        on_done: Function that is called with the number of tasks that have ended.
        max_parallel: Number of tasks at the same time. If absent: as many as the cluster has room for.
        say: Function that shows a line. It says that the tasks wait for resources.
        run_dir: Run directory that gets the stack trace of a failed task.
        title: The user's name of this work, such as "fine-tuning"; by default the function's name.
        node_seconds: How long the tasks wait while no node is large enough for one; None: without limit.

    Raises:
        UserError: A task failed, its process died again and again, or no node is large enough any more.
            The other tasks are cancelled, as after Ctrl-C. The files of tasks that have ended stay.
    """
    source = function.__name__.strip("_")
    title = title or source
    if calls and say is not None:
        _wait_for_resources(title, resources, say)
    task = ray.remote(function).options(max_retries=3, **resources)
    watch = _watch_nodes(title, resources, node_seconds, say)
    running: list[Any] = []
    not_started = list(calls)

    with cancelling(running):
        while running or not_started:
            while not_started and len(running) < (max_parallel or len(calls)):
                running.append(task.remote(*not_started.pop(0)))

            on_done(len(calls) - len(running) - len(not_started))
            ended = _wait_for_one(running, watch)
            try:
                ray.get(ended)
            except ray.exceptions.RayError as error:
                raise _task_error(title, _describe(error, source, run_dir)) from error

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


def _wait_for_one(running: list[Any], watch: NodeWatch) -> list[Any]:
    """Return a list of one task that has ended; `running` then lacks it.

    Raises:
        UserError: The cluster has lost all nodes that are large enough for a task.
    """
    while True:
        ended, running[:] = ray.wait(running, num_returns=1, timeout=POLL_SECONDS)
        if ended:
            return list(ended)
        watch.update()


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


def _watch_nodes(
    title: str,
    resources: dict[str, Any],
    seconds: float | None,
    say: Callable[[str], None] | None,
) -> NodeWatch:
    """Return the watch over the nodes of the tasks."""
    needs = _needs_of(resources)
    # A task that needs no resources, such as one of the driver node, never waits for them.
    if not needs.cpus and not needs.gpus:
        seconds = None
    return NodeWatch(title, needs, seconds, say)


def _task_error(title: str, cause: str) -> UserError:
    return UserError(
        f"A task of the {title} failed: {as_sentence(cause)} Correct this, then run the same command "
        "again: finished tasks are not repeated."
    )


def _needs_of(resources: dict[str, Any]) -> Resources:
    """Return what a task with some of Ray's options needs. Without an option it needs a CPU."""
    return Resources(resources.get("num_cpus", 1.0), resources.get("num_gpus", 0.0))


def _wait_for_resources(title: str, resources: dict[str, Any], say: Callable[[str], None]) -> None:
    """Return when the cluster has the resources of one task. Until then, say that the run waits.

    A task without work waits in Ray's queue. An autoscaler then knows what is missing.
    """
    needs = _needs_of(resources)
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
