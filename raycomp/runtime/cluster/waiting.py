"""Lines about resources that a run lacks, such as "search waits for 8 GPUs, 3 free, 120 s"."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from raycomp.errors import UserError
from raycomp.runtime.cluster.capacity import count_worker_slots
from raycomp.runtime.cluster.connect import ray

FIRST_SECONDS = 10.0
"""Time until the first line. The next ones come after 2, 4 and 8 times as long."""

LONGEST_SECONDS = 300.0
"""Longest time between two lines."""


@dataclass(frozen=True)
class Resources:
    """Resources that work needs before it starts.

    Attributes:
        cpus: CPUs.
        gpus: GPUs. If any are needed, only they are named: CPUs are rarely what is missing then.
    """

    cpus: float
    gpus: float = 0.0

    def describe_wait(self, available: dict[str, float]) -> str:
        """Return a phrase such as "8 GPUs, 3 free".

        Args:
            available: Free resources by Ray's names.
        """
        name, amount = ("GPU", self.gpus) if self.gpus else ("CPU", self.cpus)
        noun = name if amount == 1 else f"{name}s"
        return f"{amount:g} {noun}, {available.get(name, 0.0):g} free"


def list_waiting_groups(others: Collection[str] = ()) -> dict[str, Resources]:
    """Return id -> resources of the placement groups that wait for room in the cluster.

    Args:
        others: Ids of groups to leave out.
    """
    groups = {}
    for name, group in ray.util.placement_group_table().items():
        if name in others or group["state"] not in ("PENDING", "RESCHEDULING"):
            continue
        bundles = group["bundles"].values()
        cpus = sum(bundle.get("CPU", 0.0) for bundle in bundles)
        gpus = sum(bundle.get("GPU", 0.0) for bundle in bundles)
        # A trial of Ray Tune that only waits for trainings asks for neither.
        if cpus or gpus:
            groups[name] = Resources(cpus, gpus)
    return groups


class WaitNotice:
    """Says from time to time that work waits for resources.

    Example:
        >>> notice = WaitNotice("search", print)
        >>> notice.update(None)
    """

    def __init__(self, title: str, say: Callable[[str], None]) -> None:
        """Create a notice; the wait begins now.

        Args:
            title: Name of the work.
            say: Function that shows a line.
        """
        self._title = title
        self._say = say
        self.restart()

    def restart(self) -> None:
        """Count from now on: the work runs."""
        self._start = time.monotonic()
        self._next_seconds = FIRST_SECONDS

    @property
    def is_due(self) -> bool:
        """Whether a line is due, if the work waits."""
        return time.monotonic() - self._start >= self._next_seconds

    def update(self, needs: Resources | None) -> None:
        """Show a line if one is due.

        Args:
            needs: What the work waits for; None if it runs.
        """
        if needs is None:
            self.restart()
            return
        if not self.is_due:
            return

        seconds = time.monotonic() - self._start
        self._next_seconds = seconds + min(max(seconds, FIRST_SECONDS), LONGEST_SECONDS)
        free = needs.describe_wait(ray.available_resources())
        self._say(f"{self._title} waits for {free}, {seconds:.0f} s")


class GroupsNotice:
    """Says from time to time that a training of several parallel ones waits for resources.

    Groups that exist when this is created belong to others.
    """

    def __init__(self, title: str, say: Callable[[str], None]) -> None:
        """Create a notice.

        Args:
            title: Name of the work.
            say: Function that shows a line.
        """
        self._notice = WaitNotice(title, say)
        self._others = set(ray.util.placement_group_table())
        self._waiting: dict[str, Resources] = {}

    def update(self) -> None:
        """Show a line if one is due; called again and again."""
        waiting = list_waiting_groups(self._others)
        # Each training waits for a moment when it starts. Only a group that still waits counts.
        still_waiting = {name: needs for name, needs in waiting.items() if name in self._waiting}
        if not still_waiting:
            self._notice.restart()
        self._waiting = still_waiting or waiting
        self._notice.update(next(iter(self._waiting.values()), None))


class NodeWatch:
    """Ends the wait for tasks when the cluster has lost the last node that is large enough for them."""

    def __init__(
        self,
        title: str,
        needs: Resources,
        seconds: float | None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Create a watch.

        Args:
            title: Name of the work.
            needs: What one task needs.
            seconds: How long no node may be large enough. If absent, the nodes do not matter.
            say: Function that shows a line about the wait.
        """
        self._title = title
        self._needs = needs
        self._seconds = seconds
        self._notice = WaitNotice(title, say or (lambda line: None))
        self._lost_at: float | None = None

    def update(self) -> None:
        """Look at the cluster; called again and again while no task ends.

        Raises:
            UserError: For too long no node was large enough.
        """
        needs = self._needs
        if self._seconds is None or count_worker_slots(needs.cpus, needs.gpus):
            self._lost_at = None
            self._notice.update(None)
            return

        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
        self._notice.update(needs)
        if now - self._lost_at >= self._seconds:
            raise UserError(
                f"The {self._title} cannot continue: for {self._seconds:g} s (train.barrier_seconds) no "
                f"node of the cluster had the {needs.cpus:g} CPUs and {needs.gpus:g} GPUs that a task "
                "needs. Add a node, then run the same command again: finished tasks are not repeated."
            )
