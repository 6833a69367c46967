"""`submit`: run a job on a Ray cluster through its job API, and follow it from here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycomp.api.data_input import Data
from raycomp.api.job_builder import Budgets, Request, build_job
from raycomp.api.model_input import Model
from raycomp.config.job import Job
from raycomp.config.study import StudySpec
from raycomp.errors import UserError


@dataclass(frozen=True)
class SubmittedJob:
    """A job on a cluster.

    Attributes:
        id: Id of the job, as `raycomp status` prints it.
        address: URL of the cluster's dashboard; None for the default.

    Example:
        >>> import raycomp
        >>> job = raycomp.submit(
        ...     job="jobs/quickstart.toml",
        ...     storage="s3://bucket/runs",
        ...     address="http://127.0.0.1:8265",
        ... )  # doctest: +SKIP
        >>> job.status()  # doctest: +SKIP
        'RUNNING'
    """

    id: str
    address: str | None = None

    def status(self) -> str:
        """Return "PENDING", "RUNNING", "SUCCEEDED", "FAILED" or "STOPPED".

        Raises:
            UserError: The cluster does not answer, or it does not know the job.
        """
        from raycomp.runtime.cluster.submission import list_jobs

        for row in list_jobs(self.address):
            if row["id"] == self.id:
                return str(row["status"])
        raise UserError(
            f"The cluster does not know job {self.id!r}. Check the address; a cluster that was restarted "
            "forgets its jobs."
        )

    def logs(self) -> str:
        """Return the output of the job so far.

        Raises:
            UserError: The cluster does not answer, or it does not know the job.
        """
        from raycomp.runtime.cluster.submission import read_logs

        return read_logs(self.id, self.address)

    def follow(self, write: Callable[[str], Any] = sys.stdout.write) -> int:
        """Pass on the output of the job until it ends, and return its exit code.

        Args:
            write: Receiver of the output; the default prints it.

        Raises:
            UserError: The cluster does not answer, or it does not know the job.
        """
        from raycomp.runtime.cluster.submission import follow_job

        return follow_job(self.id, self.address, write)

    def stop(self) -> str:
        """Stop the job, wait for its end, and return its status. Submitting it again resumes the run.

        Raises:
            UserError: The cluster does not answer, or it does not know the job.
        """
        from raycomp.runtime.cluster.submission import stop_job

        return stop_job(self.id, self.address)


def submit(
    model: Model | None = None,
    data: Data | None = None,
    budgets: Budgets | None = None,
    *,
    storage: str,
    job: str | Path | Job | None = None,
    methods: Sequence[str] | None = None,
    name: str | None = None,
    metric: str | Callable[..., float] | None = None,
    address: str | None = None,
    installed: bool = False,
    settings: Mapping[str, Any] | None = None,
    **sections: Mapping[str, Any],
) -> SubmittedJob:
    """Run a job on a Ray cluster, and return at once.

    The call does what `raycomp submit --detach` does. Files and directories that the job names must
    exist on the cluster's head node.

    Args:
        model: Hub name, or directory on the head node.
        data: Name of a task or Hub dataset, or data file on the head node.
        budgets: As in `compress`.
        storage: Absolute directory on the head node for the runs, or a URL such as "s3://bucket/runs".
        job: As in `compress`.
        methods: As in `compress`.
        name: As in `compress`.
        metric: As in `compress`; the module of a function must be installed on the cluster.
        address: URL of the cluster's dashboard. None: RAY_API_SERVER_ADDRESS, else
            http://127.0.0.1:8265.
        installed: Whether to use the raycomp of the cluster's image; False uploads the source.
        settings: As in `compress`.
        **sections: As in `compress`.

    Returns:
        The job on the cluster. `raycomp.open_run` opens its run where this machine sees the storage.

    Raises:
        UserError: A setting is not valid, the model or the data are in memory, or the cluster refuses.
    """
    # The cluster sees neither this process's memory nor, in general, its disk.
    for argument, value in (("model", model), ("data", data)):
        if value is not None and not isinstance(value, (str, Path)):
            raise UserError(
                f"The {argument} of a submitted job must be a name or a file that the cluster can read, "
                f"and this one is a {type(value).__name__} in memory. Write it to a file there first."
            )

    request = Request(
        model=model,
        data=data,
        budgets=budgets,
        job=job,
        methods=methods,
        name=name,
        metric=metric,
        settings=settings or {},
        sections=sections,
    )
    return submit_work(build_job(request, storage), storage, address, installed=installed)


def submit_work(
    work: Job | StudySpec, storage: str, address: str | None, *, installed: bool = False
) -> SubmittedJob:
    """Submit a complete job or a study.

    Args:
        work: Job or study.
        storage: As in `submit`.
        address: As in `submit`.
        installed: As in `submit`.

    Raises:
        UserError: The cluster does not answer, or it refuses.
    """
    from raycomp.runtime.cluster import submission

    identity = submission.submit(work, storage, address, installed=installed)
    return SubmittedJob(identity, address)
