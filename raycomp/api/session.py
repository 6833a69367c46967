"""Running a job or a study to its end: storage, actors, report. The command line calls this too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from raycomp.config.job import Job
from raycomp.config.references import is_reference, resolve_reference
from raycomp.config.study import StudySpec
from raycomp.storage.layout import RunLayout
from raycomp.storage.location import opened

if TYPE_CHECKING:
    from raycomp.runtime.cluster.progress import Progress


def run_work(work: Job | StudySpec, storage: str | Path, progress: Progress) -> Path:
    """Run a job or a study to its end, or resume it, and write its report.

    Args:
        work: Job or study.
        storage: Directory or URL of the runs.
        progress: Receiver of progress and notices.

    Returns:
        The run directory, or the study's directory. For a URL it is the local copy.

    Raises:
        UserError: The job, the data, the storage or the cluster does not allow it.
        KeyboardInterrupt: The user interrupted the run. The same call resumes it.
    """
    from raycomp.report import write_report
    from raycomp.runtime.cluster.actors import release_actors

    if isinstance(work, StudySpec):
        from raycomp.runtime.studies.study import run_study

        for study_run in work.chosen_runs:
            check_references(study_run.job)
        with opened(storage, work.id, progress.say) as root:
            directory = run_study(work, root, progress)
            write_report([directory], RunLayout(directory).report)
        return directory

    from raycomp.runtime.pipeline.run import run_job

    check_references(work)
    # The report is written before the run directory is copied to a URL.
    with opened(storage, work.run_id, progress.say) as root, release_actors(work.run_id):
        directory = run_job(work, root, progress)
        write_report([directory], RunLayout(directory).report)
    return directory


def check_references(job: Job) -> None:
    """Import every object of the user's that a job names, before anything is spent.

    Raises:
        UserError: An object cannot be imported.
    """
    settings = [
        ("task.metric", job.task.metric or ""),
        ("train.distill", job.train.distill),
        ("heal.distill", job.heal.distill),
        *(("search.searchers", name) for name in job.search.searchers),
    ]
    for setting, value in settings:
        if is_reference(value):
            resolve_reference(value, setting)


@contextmanager
def resumable(call: str) -> Iterator[None]:
    """Tell the user of an interrupted block how to resume it.

    Args:
        call: Name of the function that the user called.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        # Ray's own handlers of Ctrl-C raise SystemExit, which would end a notebook's kernel.
        logging.getLogger("raycomp").warning(
            "Interrupted. Call %s again with the same arguments to resume.", call
        )
        raise KeyboardInterrupt from None
