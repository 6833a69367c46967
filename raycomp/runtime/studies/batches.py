"""Orders study runs so that an artifact that several of them need is computed once."""

from __future__ import annotations

from collections.abc import Iterator

from raycomp.config.study import StudyRun
from raycomp.config.study_settings import StudySettings
from raycomp.errors import UserError


def plan_batches(
    study_runs: list[StudyRun], settings: StudySettings, finished: set[str]
) -> Iterator[list[StudyRun]]:
    """Yield batches of study runs; the runs of a batch can be executed at the same time.

    Two runs that need the same artifact (an equal teacher or super-network) are in different batches:
    the first one computes it, and the second one reuses it. A run that needs the structure found by
    another run is in a later batch than that run.

    Args:
        study_runs: Runs that are not finished, in the order of the study.
        settings: Section [study] of the study.
        finished: Names of the finished runs.

    Raises:
        UserError: A run needs the structure of another one that is neither finished nor among these.
    """
    waiting = list(study_runs)
    completed = set(finished)
    computed: set[str] = set()

    while waiting:
        batch: list[StudyRun] = []
        # Artifacts that a run of this batch computes.
        claimed: set[str] = set()

        for study_run in waiting:
            if _waits_for_structure(study_run, settings, completed):
                continue
            needed = set(study_run.artifact_keys.values()) - computed
            if needed.isdisjoint(claimed):
                claimed |= needed
                batch.append(study_run)

        if not batch:
            name = waiting[0].name
            searching_run = _find_searching_run(waiting[0], settings)
            raise UserError(
                f"{name} needs the structure that {searching_run} finds, and that run is not finished. "
                f"Add --only {searching_run}."
            )
        computed |= claimed
        completed |= {study_run.name for study_run in batch}
        waiting = [study_run for study_run in waiting if study_run not in batch]
        yield batch


def _waits_for_structure(study_run: StudyRun, settings: StudySettings, completed: set[str]) -> bool:
    """Return whether a study run needs the structure of a run that has not completed."""
    if study_run.structure_of is None:
        return False
    return _find_searching_run(study_run, settings) not in completed


def _find_searching_run(study_run: StudyRun, settings: StudySettings) -> str:
    """Return the name of the run whose structure a study run trains."""
    searching_variant = settings.variant[0].name
    task = study_run.structure_of or study_run.task
    return StudyRun(searching_variant, task, study_run.seed, study_run.job).name
