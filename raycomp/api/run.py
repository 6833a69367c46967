"""A run as an object: its tables, its deployed models, its report."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from raycomp.api.deployment import TEACHER, Deployment, export_all
from raycomp.api.job_builder import to_plain
from raycomp.api.tables import explain_no_match, read_rows, require_run
from raycomp.config.job import Job
from raycomp.config.loader import parse_stored
from raycomp.errors import UserError
from raycomp.report.query import filter_rows, get_column
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.location import fetched, is_figure, is_url
from raycomp.storage.remote import split_url

if TYPE_CHECKING:
    from raycomp.runtime.pipeline.forecast import Machines

SUMMARY_COLUMNS = (
    "method",
    "budget",
    "kind",
    "limit",
    "cost",
    "params",
    "params_ratio",
    "selection",
    "validation",
    "retention",
    "latency_ms",
)
"""Columns of `deployments` that a notebook shows of a run."""


@dataclass
class Run:
    """A run that is finished, interrupted or in progress.

    `raycomp.compress` and `raycomp.open_run` return it. Every table is read when it is asked for. A
    run in progress therefore shows the rows that it has written so far.

    Attributes:
        path: Run directory. For a URL, the directory of its local copy.
        url: URL of the run; None for a run on this machine.

    Example:
        >>> import raycomp
        >>> run = raycomp.open_run("runs/quickstart-1f3a9c02")  # doctest: +SKIP
        >>> run.deployments.sort_values("latency_ms")  # doctest: +SKIP
        >>> run.best("params < 12e6").save("models/small")  # doctest: +SKIP
    """

    path: Path
    url: str | None = None

    @classmethod
    def of_storage(cls, storage: str | Path, directory: Path) -> Run:
        """Return the run that this process has just finished in a storage.

        Args:
            storage: Directory or URL of the runs.
            directory: Run directory on this machine.
        """
        if not is_url(storage):
            return cls(directory)

        # The options of a URL, such as an endpoint, come last.
        place, options = split_url(str(storage))
        return cls(directory, f"{place}/{directory.name}{options}")

    @property
    def name(self) -> str:
        """Name of the run directory: NAME-HASH."""
        return self.path.name

    @property
    def job(self) -> Job:
        """The job, with every setting.

        Raises:
            UserError: job.json is damaged.
        """
        return parse_stored(read_json(RunLayout(self._figures()).job))

    @property
    def deployments(self) -> pd.DataFrame:
        """One row per budget and method: the deployed model's size, scores and latency."""
        return self.table("deployments")

    @property
    def costs(self) -> pd.DataFrame:
        """What each method cost: one row per training, scoring and other work."""
        return self.table("costs")

    @property
    def evaluations(self) -> pd.DataFrame:
        """One row per architecture that was scored on the selection split."""
        return self.table("evaluations")

    @property
    def steps(self) -> pd.DataFrame:
        """One row per training step."""
        return self.table("steps")

    @property
    def distribution(self) -> pd.DataFrame:
        """The architecture distribution over time: one row per choice."""
        return self.table("distribution")

    @property
    def teacher(self) -> dict[str, Any]:
        """Scores of the teacher by split; empty until it is scored."""
        path = RunLayout(self._figures()).teacher_score
        if not path.exists():
            return {}
        return read_json(path)

    def table(self, name: str, where: str | None = None) -> pd.DataFrame:
        """Return one table, or the rows of it that satisfy a condition.

        Args:
            name: "deployments", "costs", "runtimes", "evaluations", "steps" or "distribution".
            where: Condition in the language of `raycomp query --where`, such as "params < 12e6".

        Raises:
            UserError: The table does not exist, a file of it is damaged, or the condition is not valid.
        """
        return read_rows(self._figures(), name, where)

    def best(self, where: str | None = None, *, by: str = "selection") -> Deployment:
        """Return the deployment with the highest score among those that satisfy a condition.

        The default score is that of the selection split. The validation split stays an honest estimate
        only as long as it is not used for a choice.

        Args:
            where: Condition such as "params < 12e6" or "latency_ms <= 5"; None takes all deployments.
            by: Column with the score. Of equal scores the model with fewer parameters is returned.

        Raises:
            UserError: No deployment satisfies the condition, or the condition or column is not valid.

        Example:
            >>> run.best("latency_ms <= 5", by="validation").save("phone/")  # doctest: +SKIP
        """
        deployed = self._deployed_rows()
        rows = deployed

        if where is not None:
            rows = filter_rows(deployed, where)
        scores = get_column(rows, by)
        if scores.dtype.kind not in "iuf":
            raise UserError(f"The column {by!r} does not contain numbers. Name another with by=...")

        # The size decides between equal scores, which are frequent on a small selection split.
        rows = rows[scores.notna()].sort_values([by, "params"], ascending=[False, True], kind="stable")
        if rows.empty:
            raise UserError(explain_no_match(self.name, deployed, where))
        return self._make_deployment(rows.iloc[0])

    def deployment(self, budget: str, *, method: str | None = None) -> Deployment:
        """Return the deployment of one budget.

        Args:
            budget: Name of the budget, METHOD-BUDGET, or "teacher".
            method: Method, where several have deployed a model for this budget.

        Raises:
            UserError: The budget lacks a deployed model, or several methods have one.
        """
        deployed = self._deployed_rows()
        full_names = deployed["method"] + "-" + deployed["budget"]
        rows = deployed[(deployed["budget"] == budget) | (full_names == budget)]
        if method is not None:
            rows = rows[rows["method"] == method]
        if rows.empty and budget == TEACHER and self.teacher:
            return Deployment(self, TEACHER, TEACHER, {})
        if rows.empty:
            names = ", ".join(dict.fromkeys(deployed["budget"])) or "none yet"
            by_method = f" by method {method!r}" if method is not None else ""
            raise UserError(
                f"Run {self.name} did not deploy a model for budget {budget!r}{by_method}. Deployed "
                f"budgets: {names}."
            )
        if len(rows) > 1:
            names = ", ".join(full_names[rows.index])
            raise UserError(
                f"Several methods deployed a model for budget {budget!r}. Choose one of: {names}."
            )
        return self._make_deployment(rows.iloc[0])

    def save(self, budget: str, folder: str | Path, *, method: str | None = None, **options: Any) -> Path:
        """Write the model of one budget to a new directory that plain transformers loads.

        The model is extracted again from the trained weights and compared with them, as by
        `raycomp export`.

        Args:
            budget: Name of the budget.
            folder: New or empty directory.
            method: Method, where several have deployed a model for this budget.
            **options: Formats to write and how to measure them, as in `Deployment.export`.

        Returns:
            The directory.

        Raises:
            UserError: The budget lacks a deployed model, or the directory is not empty.
        """
        return self.deployment(budget, method=method).save(folder, **options)

    def export(self, folder: str | Path | None = None, **options: Any) -> list[dict[str, Any]]:
        """Write the teacher and the models of all budgets, each with a certificate, and an index page.

        Args:
            folder: New or empty directory; None writes `models` in the run directory.
            **options: Formats to write and how to measure them, as in `Deployment.export`.

        Returns:
            The certificates; their key `out` has the folder of the model.

        Raises:
            UserError: The run has not deployed a model, or as `save`.
        """
        return export_all(self, folder, **options)

    def load(self, budget: str, *, method: str | None = None) -> Any:
        """Return the model of one budget as a transformers model in evaluation mode.

        Args:
            budget: Name of the budget.
            method: Method, where several have deployed a model for this budget.

        Raises:
            UserError: The budget lacks a deployed model.
        """
        return self.deployment(budget, method=method).load()

    def report(self, out: str | Path | None = None) -> Path:
        """Write the HTML report of the run, and return its path.

        Args:
            out: File to write; None writes `report.html` in the run directory.

        Raises:
            UserError: The file cannot be written, or a file of the run is damaged.
        """
        from raycomp.report import write_report

        target = RunLayout(self.path).report if out is None else Path(out)
        return write_report([self._figures()], target)

    def plan(self, machines: Machines | None = None) -> dict[str, Any]:
        """Predict size, time and cost of the run's job, as `raycomp.plan` does.

        Args:
            machines: Cluster to forecast for; None estimates the time on this machine.

        Raises:
            UserError: The data or the model of the job cannot be read.
        """
        from raycomp.runtime.pipeline.plan import make_plan

        return make_plan(self.job, machines, self.path.parent)

    def local_directory(self) -> Path:
        """Return the run directory with all of its files; those of a URL are downloaded.

        Raises:
            UserError: The URL cannot be read.
        """
        if self.url is not None:
            self.path = fetched(self.url)
        return self.path

    def _figures(self) -> Path:
        """Return the run directory with the files of tables and scores; those of a URL are updated."""
        if self.url is not None:
            self.path = fetched(self.url, is_figure)
        return self.path

    def _deployed_rows(self) -> pd.DataFrame:
        rows = self.deployments
        return rows[rows["arch"].notna()]

    def _make_deployment(self, row: pd.Series[Any]) -> Deployment:
        figures: dict[str, Any] = to_plain(row.to_dict(), "deployments")
        return Deployment(self, figures["method"], figures["budget"], figures)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the most important columns of `deployments`."""
        rows = self.deployments
        columns = [name for name in SUMMARY_COLUMNS if name in rows and rows[name].notna().any()]
        table = rows[columns].to_html(index=False, float_format=lambda value: f"{value:,.3g}")
        return f"<p>Run <code>{html.escape(self.name)}</code></p>{table}"


def open_run(place: str | Path) -> Run:
    """Open a run that exists, also while it is in progress.

    Args:
        place: Run directory, such as "runs/NAME-HASH", or its URL.

    Raises:
        UserError: The place is not a run, or its URL cannot be read.

    Example:
        >>> import raycomp
        >>> run = raycomp.open_run("s3://bucket/runs/quickstart-1f3a9c02")  # doctest: +SKIP
    """
    directory = fetched(place, is_figure)
    require_run(directory)
    if is_url(place):
        return Run(directory, str(place))
    return Run(directory)
