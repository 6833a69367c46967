"""Progress of long work: bars with rates and time left on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
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

Update = Callable[[int, int, dict[str, Any]], None]


class Progress:
    """Shows bars and says short lines on standard error; quiet when that is no terminal.

    With `lines` it says how far long work has come every LINE_SECONDS instead: for logs.
    """

    def __init__(
        self, enabled: bool | None = None, *, lines: bool = False, console: Console | None = None
    ) -> None:
        self._console = console or Console(stderr=True)
        self._enabled = sys.stderr.isatty() if enabled is None else enabled
        self._lines = lines

    def say(self, text: str) -> None:
        """Print one line, also where there is no terminal."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, name: str) -> Iterator[Update]:
        """Show a bar while the block runs; call the yielded function with done, total, figures."""
        if self._lines:
            began = time.monotonic()
            yield self._line(name, began)
            self.say(f"{name} done in {time.monotonic() - began:.0f} s")
            return
        if not self._enabled:
            yield lambda done, total, info: None
            return
        columns = (
            TextColumn(f"{name:<14}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        with RichProgress(*columns, console=self._console) as shown:
            task = shown.add_task(name, total=None, rate="", figures="")

            def update(done: int, total: int, info: dict[str, Any]) -> None:
                speed = shown.tasks[0].speed
                rate = f"{speed:.1f}/s" if speed else ""
                shown.update(task, completed=done, total=total, rate=rate, figures=_figures(info))

            yield update

    def _line(self, name: str, began: float) -> Update:
        last, seen = began, 0

        def update(done: int, total: int, info: dict[str, Any]) -> None:
            nonlocal last, seen
            now = time.monotonic()
            if now - last < LINE_SECONDS or done == seen:
                return
            rate = (done - seen) / (now - last)
            left = f"{(total - done) / rate:.0f} s left" if rate > 0 else ""
            self.say(f"{name} {done:,}/{total:,}  {rate:.1f}/s  {left}  {_figures(info)}".rstrip())
            last, seen = now, done

        return update


@contextmanager
def polling(look: Callable[[], None], seconds: float = 0.5) -> Iterator[None]:
    """Call `look` every so often, from a thread, while the block runs, and once at its end."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(seconds):
            look()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()


def _figures(info: dict[str, Any]) -> str:
    """Write the figures that a watcher wants: phase, loss, entropy, exploit probability, best scores."""
    parts = []
    if isinstance(info.get("phase"), str):
        parts.append(info["phase"])
    for key, label in (("loss", "loss"), ("entropy", "entropy"), ("p_exploit", "exploit")):
        if isinstance(info.get(key), (int, float)):
            parts.append(f"{label} {info[key]:.3f}")
    best = info.get("best") or {}
    parts += [f"{name} {value:.3f}" for name, value in best.items()]
    return "  ".join(parts)
