"""Lines about resources that a run lacks, such as "search waits for 8 GPUs, 3 free, 120 s"."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

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
