"""A run as it goes, in TensorBoard, MLflow or Weights & Biases: sent from the tables, each row once.

What was sent is kept in `<run>/live.json`, so that a run that goes on sends what is new, and a row that
an attempt had to write again is not sent again (it is the same to the bit).
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from raycomp.config.job import Job
from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.schedule import progressive_phases
from raycomp.runtime.cluster.progress import polling
from raycomp.search.searchers import SearchBudget
from raycomp.storage.files import write_json
from raycomp.storage.tables import read_parts

SECONDS = 5.0
RECENT = 20  # evaluations that their rate is taken over
_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
_STEP = ("loss", "entropy", "p_exploit")


class Sink(Protocol):
    """Where figures go."""

    def send(self, series: str, step: int, values: dict[str, float]) -> None:
        """Add figures of one series, such as "supernet", at its step."""
        ...

    def flush(self) -> None:
        """Pass on all that waits: what is noted as sent must not be lost with this process."""
        ...

    def close(self) -> None:
        """End."""
        ...


def check_trackers(job: Job) -> None:
    """Refuse a job that names a tracker whose package is not installed.

    Raises:
        UserError: with the command that installs it.
    """
    for name in job.run.live:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise UserError(
                f"run.live names {name!r}, whose package is not installed: pip install "
                f"'raycomp[tracking]', or leave it out"
            )


@contextmanager
def track_run(job: Job, run_dir: Path) -> Iterator[None]:
    """Send a run's figures while the block runs, and what is left at its end.

    Raises:
        UserError: a tracker cannot be reached at the start. Later failures never end a run.
    """
    if not job.run.live:
        yield
        return
    view = TrackingFeed(job, run_dir)
    try:
        with polling(view.send_new_rows, SECONDS):
            yield
    finally:
        view.close()


class TrackingFeed:
    """Sends what is new in a run's tables to every tracker that the job names."""

    def __init__(self, job: Job, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._path = run_dir / "live.json"
        state = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._sent: dict[str, int] = state.get("sent", {})
        self._ids: dict[str, str] = state.get("ids", {})
        self._noted: dict[str, int] | None = dict(self._sent) if state else None  # what the file says
        self._seen: set[tuple[str, str]] = set()
        self._told = False
        self._best: dict[str, float] = {}
        self._scored = 0
        self._job = job
        self._times: list[datetime] = []
        self._waiting: list[dict[str, Any]] = []
        self._sinks = [self._open(name, job) for name in job.run.live]

    def send_new_rows(self) -> None:
        """Send what came since the last look; what fails is said once, and sent with the next."""
        try:
            self._steps()
            self._evaluations()
            self._deployments()
            for sink in self._sinks:
                sink.flush()
            if self._sent != self._noted:
                write_json(self._path, {"sent": self._sent, "ids": self._ids})
                self._noted = dict(self._sent)
        except Exception as error:  # a tracker that is down must not end a run
            self._say(error)

    def close(self) -> None:
        """Close every tracker."""
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                self._say(error)

    def _say(self, error: Exception) -> None:
        if not self._told:
            logging.getLogger("raycomp").warning("figures cannot be sent: %s; the run goes on", error)
        self._told = True

    def _send(self, series: str, step: int, values: dict[str, Any]) -> None:
        """Send figures of a step that was not sent before; what is no number is left out."""
        if step <= self._sent.get(series, -1):
            return
        real = {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}
        for sink in self._sinks:
            sink.send(series, step, real)
        self._sent[series] = step

    def _new(self, table: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Give the rows of each file that was not given before, with the file's name."""
        for path, part in read_parts(self._run_dir, table):
            if (table, path.stem) not in self._seen:
                yield path.stem, part.to_pylist()
                self._seen.add((table, path.stem))  # only now: the rows are sent, or wait

    def _steps(self) -> None:
        for stem, rows in self._new("steps"):
            for row in sorted(rows, key=lambda row: row["step"]):
                speed = row["tokens"] / row["seconds"] if row["seconds"] else None
                series = stem.rpartition("-")[0]
                figures = {key: row[key] for key in _STEP} | {"tokens_per_second": speed}
                if row["phase"] is not None:  # trackers draw numbers: that of the phase, from 0
                    figures["phase"] = self._phases.get(row["phase"])
                self._send(series, int(row["step"]), figures)

    def _evaluations(self) -> None:
        for _, rows in self._new("evaluations"):
            self._waiting += [row for row in rows if row["method"] != "adabert"]
        self._waiting.sort(key=lambda row: row["created_at"])
        sent = 0
        try:
            for row in self._waiting:
                best, times = self._better(row), [*self._times, row["created_at"]][-RECENT:]
                seconds = (times[-1] - times[0]).total_seconds()
                speed = (len(times) - 1) / seconds if seconds > 0 else None
                figures = {"value": row["value"], "params": row["params"], "per_second": speed}
                self._send("search", self._scored, {**figures, **best})
                self._best, self._times = best, times
                self._scored, sent = self._scored + 1, sent + 1
        finally:
            self._waiting = self._waiting[sent:]  # what could not be sent waits

    def _better(self, row: dict[str, Any]) -> dict[str, float]:
        """Return `best-BUDGET`, the best score so far within each budget, with this row's."""
        best = dict(self._best)
        if row["arch"] is not None:
            arch = Architecture.from_json(row["arch"])
            for name, budget in self._budgets.items():
                key = f"best-{name}"
                if row["value"] > best.get(key, -math.inf) and budget.is_met_by(arch):
                    best[key] = row["value"]
        return best

    @functools.cached_property
    def _phases(self) -> dict[str, int]:
        space = RunContext(self._job, self._run_dir).space
        return {phase.name: number for number, phase in enumerate(progressive_phases(space))}

    @functools.cached_property
    def _budgets(self) -> dict[str, SearchBudget]:
        context = RunContext(self._job, self._run_dir)
        return {settings.name: context.budget(settings) for settings in self._job.budget}

    def _deployments(self) -> None:
        keys = ("selection", "validation", "retention", "gap", "params", "flops", "latency_ms")
        for _, rows in self._new("deployments"):
            for row in rows:
                self._send(f"{row['method']}-{row['budget']}", 0, {k: row[k] for k in keys})

    def _open(self, name: str, job: Job) -> Sink:
        made: dict[str, Callable[[Job, Path, dict[str, str]], Sink]] = {
            "tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WandB,
        }  # fmt: skip
        try:
            return made[name](job, self._run_dir, self._ids)
        except Exception as error:  # whatever the tracker's client raises
            first = (str(error).strip().splitlines() or [repr(error)])[0]
            raise UserError(
                f"run.live names {name!r}, which cannot be reached ({first}); set it up, or leave it out"
            ) from None


class _TensorBoard:
    """Event files in `<run>/tensorboard`."""

    def __init__(self, job: Job, run_dir: Path, ids: dict[str, str]) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), flush_secs=10)

    def send(self, series: str, step: int, values: dict[str, float]) -> None:
        """Add scalars SERIES/NAME."""
        for name, value in values.items():
            self._writer.add_scalar(f"{series}/{name}", value, step)

    def flush(self) -> None:
        """Write what waits into the file."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class _MLflow:
    """One MLflow run; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where, as for MLflow itself."""

    def __init__(self, job: Job, run_dir: Path, ids: dict[str, str]) -> None:
        import mlflow
        from mlflow.entities import Metric

        self._metric, self._client = Metric, mlflow.MlflowClient()
        if "mlflow" not in ids:
            mlflow.set_experiment(mlflow.environment_variables.MLFLOW_EXPERIMENT_NAME.get() or "raycomp")
            with mlflow.start_run(run_name=run_dir.name) as run:
                mlflow.log_params(_settings(job))
            ids["mlflow"] = run.info.run_id
        self._run, self._waiting = ids["mlflow"], list[Any]()

    def send(self, series: str, step: int, values: dict[str, float]) -> None:
        """Add metrics SERIES/NAME, a thousand at a time."""
        now = int(time.time() * 1000)
        self._waiting += [self._metric(f"{series}/{k}", v, now, step) for k, v in values.items()]
        if len(self._waiting) >= 900:
            self.flush()

    def flush(self) -> None:
        """Send what waits, at most a thousand at a time; what fails waits on."""
        while self._waiting:
            self._client.log_batch(self._run, metrics=self._waiting[:1000])
            self._waiting = self._waiting[1000:]

    def close(self) -> None:
        """Send what waits."""
        self.flush()


class _WandB:
    """One run of Weights & Biases; WANDB_PROJECT, WANDB_MODE and the like say where."""

    def __init__(self, job: Job, run_dir: Path, ids: dict[str, str]) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "raycomp"),
            id=run_dir.name,
            name=run_dir.name,
            dir=str(run_dir),
            resume="allow",
            config=_settings(job),
            settings=wandb.Settings(silent=True, x_disable_stats=True),
        )
        self._known: set[str] = set()

    def send(self, series: str, step: int, values: dict[str, float]) -> None:
        """Add metrics SERIES/NAME over the series' own step."""
        if series not in self._known:
            self._run.define_metric(f"{series}/*", step_metric=f"{series}/step")
            self._known.add(series)
        self._run.log({f"{series}/step": step, **{f"{series}/{k}": v for k, v in values.items()}})

    def flush(self) -> None:
        """Nothing: the client keeps what it was given in a file, and sends it on its own."""

    def close(self) -> None:
        """End the session; a run that goes on takes it up again."""
        self._run.finish()


def _settings(job: Job) -> dict[str, str]:
    """Return every setting by its dotted name; there are no secrets in a job."""
    flat: dict[str, str] = {}
    for section, values in job.model_dump(mode="json").items():
        for i, table in enumerate(values if isinstance(values, list) else [values]):
            prefix = f"{section}.{table.get('name', i)}" if isinstance(values, list) else section
            flat |= {f"{prefix}.{key}": str(value)[:500] for key, value in table.items()}
    return flat
