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


def log_after(
    monkeypatch: pytest.MonkeyPatch, reports: list[tuple[float, int, str]], total: int
) -> list[str]:
    """Return the lines of a log after reports: seconds since the last one, steps done, and phase."""
    with log_lines(monkeypatch) as (update, advance, output):
        for seconds, done, phase in reports:
            advance(seconds)
            update(done, total, {"phase": phase})
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_a_new_phase_gets_a_line_before_any_step_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    phases = ["first: teacher", "first: teacher", "", "first: search"]
    lines = log_after(monkeypatch, [(11, 0, phase) for phase in phases], total=23)
    assert [line.split() for line in lines] == [
        ["study", "0/23", "first:", "teacher"],
        ["study", "0/23", "first:", "search"],
        ["study", "done", "in", "44", "s"],
    ]


def test_a_rate_covers_the_time_since_the_last_step_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = log_after(
        monkeypatch,
        [(60, 0, "teacher"), (60, 1, "search"), (10, 1, "deploy"), (10, 3, "deploy")],
        total=3,
    )
    assert lines[1:-1] == [
        "study 1/3  1.0/min  120 s left  search",
        "study 1/3    deploy",
        "study 3/3  0.1/s  0 s left  deploy",
    ]


def test_the_start_of_a_worker_does_not_count_as_a_slow_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first report comes with the first step, twenty seconds after the start.
    lines = log_after(monkeypatch, [(20, 1, ""), (10, 21, "")], total=101)
    assert lines[:-1] == ["study 1/101", "study 21/101  2.0/s  40 s left"]


def test_lines_are_at_least_ten_seconds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with log_lines(monkeypatch) as (update, advance, output):
        for step in range(1, 100):
            advance(0.5)
            update(step, 100, {"loss": 0.5})

    assert len(output.getvalue().splitlines()) == 4 + 1
    assert "loss 0.500" in output.getvalue()
