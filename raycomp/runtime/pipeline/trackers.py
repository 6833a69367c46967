"""Clients of TensorBoard, MLflow and Weights & Biases behind one interface.

The package of a tracker is imported when the tracker is opened. A run without the tracker does not need
the package.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from raycomp.config.flatten import flatten_settings
from raycomp.config.job import Job
from raycomp.errors import UserError, first_line
from raycomp.storage.layout import RunLayout

# Tracker -> package that its client needs.
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}

# MLflow accepts at most 1,000 metrics in one request.
MLFLOW_MAX_METRICS = 1000

# MLflow refuses longer parameter values.
MAX_SETTING_LENGTH = 500


class Tracker(Protocol):
    """Destination of a run's figures."""

    def send(self, series: str, step: int, values: dict[str, float]) -> None:
        """Add figures of one step. It does not wait for a server: `flush` does.

        If it raises an exception, it must not have added any of the figures.

        Args:
            series: Group of figures that share one step counter, such as "supernet".
            step: Step within the series.
            values: Name of each figure -> value.
        """
        ...

    def flush(self) -> None:
        """Pass on all figures. None of them is lost if this process ends."""
        ...

    def close(self) -> None:
        """End the session."""
        ...


def check_trackers(job: Job) -> None:
    """Check that the package of every tracker in `run.tracking` is installed.

    Raises:
        UserError: A package is missing; the message has the command that installs it.
    """
    for name in job.run.tracking:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UserError(
                f"run.tracking contains {name!r}, whose package is not installed: "
                f"pip install 'raycomp[tracking]', or remove {name!r} from run.tracking."
            )


def open_tracker(name: str, job: Job, run_dir: Path, ids: dict[str, str]) -> Tracker:
    """Connect to a tracker.

    Args:
        name: Entry of `run.tracking`.
        job: Job whose settings the tracker shows.
        run_dir: Run directory.
        ids: Identifiers of the run at each tracker. A tracker that chooses its own adds it here.

    Raises:
        UserError: The tracker cannot be reached.
    """
    clients: dict[str, Callable[[Job, Path, dict[str, str]], Tracker]] = {
        "tensorboard": TensorBoardTracker,
        "mlflow": MLflowTracker,
        "wandb": WandBTracker,
    }
    try:
        return clients[name](job, run_dir, ids)
    except Exception as error:
        raise UserError(
            f"run.tracking contains {name!r}, which cannot be reached ({first_line(error)}). "
            f"Check its address and credentials, or remove {name!r} from run.tracking."
        ) from None


class TensorBoardTracker:
    """Event files in `<run>/tensorboard`."""

    def __init__(self, job: Job, run_dir: Path, ids: dict[str, str]) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(RunLayout(run_dir).tensorboard), flush_secs=10)

    def send(self, series: str, step: int, values: dict[str, float]) -> None:
        """Add scalars SERIES/NAME."""
        for name, value in values.items():
            self._writer.add_scalar(f"{series}/{name}", value, step)

    def flush(self) -> None:
        """Write buffered scalars into the file."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class MLflowTracker:
    """One MLflow run.

    MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME select server and experiment, as for MLflow itself.
    """

    def __init__(self, job: Job, run_dir: Path, ids: dict[str, str]) -> None:
        import mlflow
        from mlflow.entities import Metric

        self._metric_type = Metric
        self._client = mlflow.MlflowClient()
        if "mlflow" not in ids:
            experiment = mlflow.environment_variables.MLFLOW_EXPERIMENT_NAME.get()
            mlflow.set_experiment(experiment or "raycomp")
            with mlflow.start_run(run_name=run_dir.name) as run:
                mlflow.log_params(_settings_by_key(job))
            ids["mlflow"] = run.info.run_id

        self._run_id = ids["mlflow"]
        self._buffer: list[Any] = []

    def send(self, series: str, step: int, values: dict[str, float]) -> None:
        """Add metrics SERIES/NAME to the buffer."""
        now_ms = int(time.time() * 1000)
        self._buffer += [
            self._metric_type(f"{series}/{name}", value, now_ms, step) for name, value in values.items()
        ]

    def flush(self) -> None:
        """Send the buffered metrics; metrics that cannot be sent stay in the buffer."""
        while self._buffer:
            self._client.log_batch(self._run_id, metrics=self._buffer[:MLFLOW_MAX_METRICS])
            self._buffer = self._buffer[MLFLOW_MAX_METRICS:]

    def close(self) -> None:
        """Send the buffered metrics."""
        self.flush()


class WandBTracker:
    """One run of Weights & Biases.

    WANDB_PROJECT, WANDB_MODE and its other variables select project and mode, as for wandb itself.
    """

    def __init__(self, job: Job, run_dir: Path, ids: dict[str, str]) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "raycomp"),
            id=run_dir.name,
            name=run_dir.name,
            dir=str(run_dir),
            resume="allow",
            config=_settings_by_key(job),
            settings=wandb.Settings(silent=True, x_disable_stats=True),
        )
        self._defined_series: set[str] = set()

    def send(self, series: str, step: int, values: dict[str, float]) -> None:
        """Add metrics SERIES/NAME over the series' own step."""
        if series not in self._defined_series:
            self._run.define_metric(f"{series}/*", step_metric=f"{series}/step")
            self._defined_series.add(series)
        figures = {f"{series}/{name}": value for name, value in values.items()}
        self._run.log({f"{series}/step": step, **figures})

    def flush(self) -> None:
        """Do nothing: the client keeps figures in a file and sends them itself."""

    def close(self) -> None:
        """End the session; a run that resumes continues it."""
        self._run.finish()


def _settings_by_key(job: Job) -> dict[str, str]:
    """Return every setting of a job as `section.key` -> text. Jobs do not contain secrets."""
    settings = flatten_settings(job.model_dump(mode="json"))
    return {key: str(value)[:MAX_SETTING_LENGTH] for key, value in settings.items()}
