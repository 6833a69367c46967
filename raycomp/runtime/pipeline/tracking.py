"""Sends a run's figures to trackers while it runs: from its tables, each row once.

The file `<run>/tracking.json` records the last step of each series that each tracker has. A run that
resumes sends only newer steps. A row that a restarted training writes again is not sent again: it has the
same values. A tracker that fails gets its figures later, and the others do not get theirs twice.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from raycomp.config.job import Job
from raycomp.encoder.architecture import Architecture
from raycomp.errors import redacted
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.schedule import progressive_phases
from raycomp.runtime.cluster.progress import polling
from raycomp.runtime.pipeline.trackers import Tracker, open_tracker
from raycomp.search.budget import SearchBudget
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_parts

POLL_SECONDS = 5.0

EARLIER_NAME = "live.json"
"""Name of the record in runs that an earlier version began."""

# Number of latest evaluations over which the evaluation rate is measured.
RATE_WINDOW = 20

STEP_COLUMNS = ("loss", "entropy", "p_exploit")
DEPLOYMENT_COLUMNS = (
    "selection",
    "validation",
    "retention",
    "gap",
    "params",
    "flops",
    "latency_ms",
)

_LOGGER = logging.getLogger("raycomp")


@contextmanager
def track_run(job: Job, run_dir: Path) -> Iterator[None]:
    """Send a run's figures to the trackers in `run.tracking` while the block runs.

    Args:
        job: Job of the run.
        run_dir: Run directory whose tables are read.

    Raises:
        UserError: A tracker cannot be reached at the start. A later failure does not end the run.
    """
    if not job.run.tracking:
        yield
        return

    feed = TrackingFeed(job, run_dir)
    try:
        with polling(feed.send_new_rows, POLL_SECONDS):
            yield
    finally:
        feed.close()


class Delivery:
    """What one tracker has received, and the points that wait for it.

    Args:
        name: Name of the tracker.
        tracker: The tracker.
        sent: Series -> last step that it has from an earlier process.
    """

    def __init__(self, name: str, tracker: Tracker, sent: Mapping[str, int]) -> None:
        self.name = name
        self.sent = dict(sent)
        """Series -> last step that is out of this process."""
        self._tracker = tracker
        self._waiting: deque[tuple[str, int, dict[str, float]]] = deque()
        self._last_waiting = dict(sent)
        self._last_added = dict(sent)

    def add(self, series: str, step: int, values: dict[str, float]) -> None:
        """Add a point, unless the tracker has it or will get it."""
        if step > self._last_waiting.get(series, -1):
            self._waiting.append((series, step, values))
            self._last_waiting[series] = step

    def send(self) -> None:
        """Send the points that wait. If the tracker fails, those that it does not have wait further."""
        while self._waiting:
            series, step, values = self._waiting[0]
            self._tracker.send(series, step, values)
            self._waiting.popleft()
            self._last_added[series] = step
        self._tracker.flush()
        # Only after the flush: steps that the state file names are out of this process.
        self.sent = dict(self._last_added)

    def close(self) -> None:
        """Close the tracker."""
        self._tracker.close()


class TrackingFeed:
    """Sends new rows of a run's tables to every tracker of the job.

    Call `send_new_rows` again and again while the run writes its tables, then `close`.

    Args:
        job: Job of the run; `run.tracking` names the trackers.
        run_dir: Run directory.

    Raises:
        UserError: A tracker cannot be reached.
    """

    def __init__(self, job: Job, run_dir: Path) -> None:
        self._job = job
        self._run_dir = run_dir
        self._path = RunLayout(run_dir).tracking
        self._has_warned = False

        state: dict[str, Any] = {}
        for path in (self._path, self._path.with_name(EARLIER_NAME)):
            if path.exists():
                state = json.loads(path.read_text())
                break
        # Tracker -> series -> last step that it has. Runs of earlier versions have one record for all.
        sent: dict[str, dict[str, int]] = state.get("trackers", {})
        old_sent: dict[str, int] = state.get("sent", {})
        self._state = state
        self._ids: dict[str, str] = dict(state.get("ids", {}))

        # Table -> names of files whose rows are added or in `_new_evaluations`. A run writes thousands.
        self._read_files: defaultdict[str, set[str]] = defaultdict(set)
        self._new_evaluations: list[dict[str, Any]] = []
        self._num_evaluations = 0
        self._evaluation_times: list[datetime] = []
        self._best_scores: dict[str, float] = {}

        self._deliveries = [
            Delivery(name, open_tracker(name, job, run_dir, self._ids), sent.get(name, old_sent))
            for name in job.run.tracking
        ]

    def send_new_rows(self) -> None:
        """Send the rows that were written since the last call.

        A failure is logged once, and the next call tries again: a tracker that is down must end neither
        the run nor the figures of the other trackers.
        """
        try:
            self._read_steps()
            self._read_evaluations()
            self._read_deployments()
        except Exception as error:
            self._warn_once(error)

        for delivery in self._deliveries:
            try:
                delivery.send()
            except Exception as error:
                self._warn_once(error)

        try:
            self._record()
        except Exception as error:
            self._warn_once(error)

    def close(self) -> None:
        """Close every tracker."""
        for delivery in self._deliveries:
            try:
                delivery.close()
            except Exception as error:
                self._warn_once(error)

    def _record(self) -> None:
        """Write what the trackers have, if that has changed."""
        sent = {delivery.name: delivery.sent for delivery in self._deliveries if delivery.sent}
        # A tracker that the job does not name any more keeps its record.
        sent = self._state.get("trackers", {}) | sent
        state = {"trackers": sent, "ids": dict(self._ids)}
        if (sent or self._ids) and state != self._state:
            write_json(self._path, state)
            self._state = state

    def _warn_once(self, error: Exception) -> None:
        if not self._has_warned:
            # The address of a tracking server may contain a password.
            reason = redacted(str(error))
            _LOGGER.warning("Figures cannot be sent to a tracker: %s. The run continues.", reason)
        self._has_warned = True

    def _add(self, series: str, step: int, values: dict[str, Any]) -> None:
        """Let every tracker get the figures of a step; null and infinite values are left out."""
        finite = {
            name: float(value)
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        }
        for delivery in self._deliveries:
            delivery.add(series, step, finite)

    def _new_files(self, table: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield name and rows of each file of a table that was not read before."""
        read_files = self._read_files[table]
        for path, rows in read_parts(self._run_dir, table, read_files):
            yield path.stem, rows.to_pylist()
            # After the yield: if the rows cannot be used, the next call reads the file again.
            read_files.add(path.stem)

    def _read_steps(self) -> None:
        for stem, rows in self._new_files("steps"):
            # The file of a training task is named TASK-FIRST_STEP.
            series = stem.rpartition("-")[0]
            for row in sorted(rows, key=lambda row: row["step"]):
                figures = {column: row[column] for column in STEP_COLUMNS}
                if row["seconds"]:
                    figures["tokens_per_second"] = row["tokens"] / row["seconds"]
                if row["phase"] is not None:
                    # Trackers plot numbers, so a phase is sent as its number, from 0.
                    figures["phase"] = self._phase_numbers.get(row["phase"])
                self._add(series, int(row["step"]), figures)

    def _read_evaluations(self) -> None:
        for _, rows in self._new_files("evaluations"):
            self._new_evaluations += [row for row in rows if _is_of_search(row)]
        self._new_evaluations.sort(key=lambda row: row["created_at"])

        while self._new_evaluations:
            row = self._new_evaluations[0]
            best_scores = self._best_scores_with(row)
            times = [*self._evaluation_times, row["created_at"]][-RATE_WINDOW:]
            figures = {"value": row["value"], "params": row["params"], "per_second": _rate(times)}
            self._add("search", self._num_evaluations, {**figures, **best_scores})

            # Only now: a row that cannot be used stays, and the next call tries it again.
            del self._new_evaluations[0]
            self._best_scores = best_scores
            self._evaluation_times = times
            self._num_evaluations += 1

    def _best_scores_with(self, row: dict[str, Any]) -> dict[str, float]:
        """Return `best-BUDGET` -> best score within each budget, among the sent evaluations and `row`."""
        best_scores = dict(self._best_scores)
        if row["arch"] is None:
            return best_scores

        architecture = Architecture.from_json(row["arch"])
        for name, budget in self._budgets.items():
            key = f"best-{name}"
            is_better = row["value"] > best_scores.get(key, -math.inf)
            if is_better and budget.is_met_by(architecture):
                best_scores[key] = row["value"]
        return best_scores

    def _read_deployments(self) -> None:
        for _, rows in self._new_files("deployments"):
            for row in rows:
                figures = {column: row[column] for column in DEPLOYMENT_COLUMNS}
                self._add(f"{row['method']}-{row['budget']}", 0, figures)

    @functools.cached_property
    def _phase_numbers(self) -> dict[str, int]:
        space = RunContext(self._job, self._run_dir).space
        return {phase.name: number for number, phase in enumerate(progressive_phases(space))}

    @functools.cached_property
    def _budgets(self) -> dict[str, SearchBudget]:
        context = RunContext(self._job, self._run_dir)
        return {settings.name: context.budget(settings) for settings in self._job.budget}


def _rate(times: list[datetime]) -> float | None:
    """Return evaluations per second over their times; None if the times do not differ."""
    seconds = (times[-1] - times[0]).total_seconds()
    if seconds <= 0:
        return None
    return (len(times) - 1) / seconds


def _is_of_search(row: dict[str, Any]) -> bool:
    """Return whether a row of `evaluations` is a score of the deployment search, which is a series."""
    return row["method"] != "adabert" and row["weights"] != "healed"
