"""Progress of long work: bars on a terminal, lines in a log, nothing elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

LINE_SECONDS = 10.0
"""Time between two lines of one piece of work in a log."""

SHOWN_METRICS = (("loss", "loss"), ("entropy", "entropy"), ("p_exploit", "exploit"))
"""Metrics that are shown, with their labels."""

Update = Callable[[int, int, dict[str, Any]], None]
"""Function of steps done, steps in total, and metrics."""


class Progress:
    """Shows progress on standard error.

    Example:
        >>> progress = Progress()
        >>> with progress.bar("teacher") as update:
        ...     for step in range(100):
        ...         update(step + 1, 100, {"loss": 0.3})
    """

    def __init__(
        self, enabled: bool | None = None, *, lines: bool = False, console: Console | None = None
    ) -> None:
        """Choose how to show progress.

        Args:
            enabled: Whether to show bars. None shows them on a terminal only.
            lines: Whether to print a line every LINE_SECONDS instead of a bar.
            console: Where to print; standard error if absent.
        """
        self._console = console or Console(stderr=True)
        self._enabled = sys.stderr.isatty() if enabled is None else enabled
        self._lines = lines

    def say(self, text: str) -> None:
        """Print a line, also where bars are not shown."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def block(self, title: str, lines: Sequence[str]) -> None:
        """Print a title and lines below it."""
        for line in (title, *lines):
            self.say(line)

    @contextmanager
    def bar(self, name: str) -> Iterator[Update]:
        """Show a piece of work while the block runs.

        Args:
            name: Name of the work.

        Yields:
            The function that updates the bar.
        """
        if self._lines:
            start = time.monotonic()
            yield self._line_update(name, start)
            self.say(f"{name} done in {time.monotonic() - start:.0f} s")
        elif self._enabled:
            with RichProgress(*_columns(name), console=self._console) as display:
                yield _bar_update(display, name)
        else:
            yield lambda done, total, metrics: None

    def _line_update(self, name: str, start: float) -> Update:
        last_time = start
        last_done = 0
        # Time and steps from which the rate counts. What comes before the first report, such as the start
        # of a worker, says nothing about the rate.
        counted_from: tuple[float, int] | None = None
        last_phase: object = None

        def update(done: int, total: int, metrics: dict[str, Any]) -> None:
            nonlocal last_time, last_done, counted_from, last_phase
            now = time.monotonic()
            counted_from = counted_from or (now, done)
            # Between two stages, a study run does not name a phase.
            phase = metrics.get("phase") or last_phase
            # A line that repeats the last one would only make the log longer.
            if now - last_time < LINE_SECONDS or (done == last_done and phase == last_phase):
                return

            speed = ""
            if done > counted_from[1]:
                rate = (done - counted_from[1]) / (now - counted_from[0])
                speed = f"{_format_rate(rate)}  {(total - done) / rate:.0f} s left"
                counted_from = (now, done)
            text = f"{name} {done:,}/{total:,}  {speed}  {_format_metrics(metrics)}"
            self.say(text.rstrip())
            last_time = now
            last_done = done
            last_phase = phase

        return update


def _columns(name: str) -> tuple[Any, ...]:
    return (
        TextColumn(f"{name:<14}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
    )


def _bar_update(display: RichProgress, name: str) -> Update:
    task = display.add_task(name, total=None, rate="", metrics="")

    def update(done: int, total: int, metrics: dict[str, Any]) -> None:
        speed = display.tasks[0].speed
        rate = _format_rate(speed) if speed else ""
        text = _format_metrics(metrics)
        display.update(task, completed=done, total=total, rate=rate, metrics=text)

    return update


@contextmanager
def polling(poll: Callable[[], None], seconds: float = 0.5) -> Iterator[None]:
    """Call a function regularly while the block runs, and once when it has ended.

    Args:
        poll: Function that another thread calls.
        seconds: Time between two calls.
    """
    has_ended = threading.Event()

    def poll_until_end() -> None:
        while not has_ended.wait(seconds):
            poll()

    thread = threading.Thread(target=poll_until_end, daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()
        # The last state, which the thread may have missed.
        poll()


def _format_rate(rate: float) -> str:
    """Return steps per second as text; per minute where a step takes longer than ten seconds."""
    return f"{rate:.1f}/s" if rate >= 0.1 else f"{rate * 60:.1f}/min"


def _format_metrics(metrics: dict[str, Any]) -> str:
    """Return phase, loss, entropy, exploitation probability and the best score of each budget."""
    parts = []
    if isinstance(metrics.get("phase"), str):
        parts.append(metrics["phase"])

    for key, label in SHOWN_METRICS:
        value = metrics.get(key)
        if isinstance(value, (int, float)):
            parts.append(f"{label} {value:.3f}")

    best_scores = metrics.get("best") or {}
    parts += [f"{budget} {score:.3f}" for budget, score in best_scores.items()]
    return "  ".join(parts)
