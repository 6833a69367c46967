"""Sends a run's figures to trackers while it runs: from its tables, each row once.

The file `<run>/live.json` records the last step that was sent of each series. A run that resumes sends
only newer steps. A row that a restarted training writes again is not sent again: it has the same values.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterator
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
from raycomp.runtime.pipeline.trackers import open_tracker
from raycomp.search.budget import SearchBudget
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_parts

POLL_SECONDS = 5.0

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
    """Send a run's figures to the trackers in `run.live` while the block runs.

    Args:
        job: Job of the run.
        run_dir: Run directory whose tables are read.

    Raises:
        UserError: A tracker cannot be reached at the start. A later failure does not end the run.
    """
    if not job.run.live:
        yield
        return

    feed = TrackingFeed(job, run_dir)
    try:
        with polling(feed.send_new_rows, POLL_SECONDS):
            yield
    finally:
        feed.close()


class TrackingFeed:
    """Sends new rows of a run's tables to every tracker of the job.

    Call `send_new_rows` again and again while the run writes its tables, then `close`.

    Args:
        job: Job of the run; `run.live` names the trackers.
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
        if self._path.exists():
            state = json.loads(self._path.read_text())
        # Series -> last step that was sent, and the same as the state file has it.
        self._sent: dict[str, int] = state.get("sent", {})
        self._recorded: dict[str, int] | None = dict(self._sent) if state else None
        self._ids: dict[str, str] = state.get("ids", {})

        # Table -> names of files whose rows are sent or in `_unsent_evaluations`. A run writes thousands.
        self._read_files: defaultdict[str, set[str]] = defaultdict(set)
        self._unsent_evaluations: list[dict[str, Any]] = []
        self._num_evaluations = 0
        self._evaluation_times: list[datetime] = []
        self._best_scores: dict[str, float] = {}

        self._trackers = [open_tracker(name, job, run_dir, self._ids) for name in job.run.live]

    def send_new_rows(self) -> None:
        """Send the rows that were written since the last call.

        A failure is logged once, and its rows are sent by the next call: a tracker that is down must
        not end the run.
        """
        try:
            self._send_steps()
            self._send_evaluations()
            self._send_deployments()
            for tracker in self._trackers:
                tracker.flush()
            # Only after the flush: steps that the file names are out of this process.
            if self._sent != self._recorded:
                write_json(self._path, {"sent": self._sent, "ids": self._ids})
                self._recorded = dict(self._sent)
        except Exception as error:
            self._warn_once(error)

    def close(self) -> None:
        """Close every tracker."""
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as error:
                self._warn_once(error)

    def _warn_once(self, error: Exception) -> None:
        if not self._has_warned:
            # The address of a tracking server may contain a password.
            reason = redacted(str(error))
            _LOGGER.warning("Figures cannot be sent to a tracker: %s. The run continues.", reason)
        self._has_warned = True

    def _send(self, series: str, step: int, values: dict[str, Any]) -> None:
        """Send figures of a step unless it was sent before; null and infinite values are left out."""
        if step <= self._sent.get(series, -1):
            return
        finite = {
            name: float(value)
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        }
        for tracker in self._trackers:
            tracker.send(series, step, finite)
        self._sent[series] = step

    def _new_files(self, table: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield name and rows of each file of a table that was not read before."""
        read_files = self._read_files[table]
        for path, rows in read_parts(self._run_dir, table, read_files):
            yield path.stem, rows.to_pylist()
            # After the yield: if sending fails, the next call reads the file again.
            read_files.add(path.stem)

    def _send_steps(self) -> None:
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
                self._send(series, int(row["step"]), figures)

    def _send_evaluations(self) -> None:
        for _, rows in self._new_files("evaluations"):
            self._unsent_evaluations += [row for row in rows if _is_of_search(row)]
        self._unsent_evaluations.sort(key=lambda row: row["created_at"])

        while self._unsent_evaluations:
            row = self._unsent_evaluations[0]
            best_scores = self._best_scores_with(row)
            times = [*self._evaluation_times, row["created_at"]][-RATE_WINDOW:]
            figures = {"value": row["value"], "params": row["params"], "per_second": _rate(times)}
            self._send("search", self._num_evaluations, {**figures, **best_scores})

            # Only after sending succeeded: a failed row stays, and is sent by the next call.
            del self._unsent_evaluations[0]
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

    def _send_deployments(self) -> None:
        for _, rows in self._new_files("deployments"):
            for row in rows:
                figures = {column: row[column] for column in DEPLOYMENT_COLUMNS}
                self._send(f"{row['method']}-{row['budget']}", 0, figures)

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
