"""Progress in a log: a line for each step forward and each phase, never the same line again."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from raycomp.runtime.cluster import progress as progress_module
from raycomp.runtime.cluster.progress import Progress, Update

Advance = Callable[[float], None]


@contextmanager
def log_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Update, Advance, io.StringIO]]:
    """Yield the update function of a bar in a log, a function that moves the clock on, and the log."""
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    output = io.StringIO()

    def advance(seconds: float) -> None:
        now[0] += seconds

    with Progress(lines=True, console=Console(file=output, width=200)).bar("study") as update:
        yield update, advance, output


def test_a_new_phase_gets_a_line_before_any_step_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    with log_lines(monkeypatch) as (update, advance, output):
        advance(11)
        update(0, 23, {"phase": "first: teacher"})
        advance(11)
        update(0, 23, {"phase": "first: teacher"})
        advance(11)
        update(0, 23, {"phase": ""})
        advance(11)
        update(0, 23, {"phase": "first: search"})

    lines = [line.split() for line in output.getvalue().splitlines()]
    assert lines == [
        ["study", "0/23", "first:", "teacher"],
        ["study", "0/23", "first:", "search"],
        ["study", "done", "in", "44", "s"],
    ]


def test_a_rate_covers_the_time_since_the_last_step_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    with log_lines(monkeypatch) as (update, advance, output):
        advance(60)
        update(0, 3, {"phase": "teacher"})
        advance(60)
        update(1, 3, {"phase": "search"})
        advance(10)
        update(2, 3, {"phase": "search"})

    text = output.getvalue()
    assert "study 1/3  0.5/min  240 s left  search" in text
    assert "study 2/3  0.1/s  10 s left  search" in text


def test_lines_are_at_least_ten_seconds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with log_lines(monkeypatch) as (update, advance, output):
        for step in range(1, 100):
            advance(0.5)
            update(step, 100, {"loss": 0.5})

    assert len(output.getvalue().splitlines()) == 4 + 1
    assert "loss 0.500" in output.getvalue()
