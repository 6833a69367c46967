"""What a rank records while it trains: table rows, progress and checkpoints."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import ray.train
from ray.train import Checkpoint
from ray.train.collective import broadcast_from_rank_zero

from raycomp.config.job import Job
from raycomp.methods.tasks import TrainingTask
from raycomp.runtime.cluster.attempts import attempt_number
from raycomp.runtime.cluster.replica import NodeRunDir
from raycomp.runtime.training.checkpoints import save_checkpoint
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import part_files, write_rows
from raycomp.training.loop import StepResult

FLUSH_STEPS = 50
"""Steps between two writes of table rows."""

CHECK_STEPS = 10
"""Steps after which the ranks agree whether a checkpoint is due."""

PROGRESS_SECONDS = 0.5
"""Least time between two writes of the progress file."""


class PartName(NamedTuple):
    """What the name of a file of rows says.

    Attributes:
        training: Name of the training task.
        first_step: Step of its first row.
        attempt: Attempt that wrote it; empty in files of earlier versions.
    """

    training: str
    first_step: int
    attempt: str


_PART_NAME = re.compile(r"(.+)-(\d+)(?:\.(.+))?")


def name_part(training: str, first_step: int, attempt: str) -> str:
    """Return the name of a file of rows, without its suffix. Names are in the order of steps."""
    return f"{training}-{first_step:09d}.{attempt}"


def read_part_name(stem: str) -> PartName | None:
    """Return what the name of a file of rows says; None if it is another name."""
    match = _PART_NAME.fullmatch(stem)
    if match is None:
        return None
    return PartName(match[1], int(match[2]), match[3] or "")


class TrainingReporter:
    """Records a training task on one rank; the training loop calls `report` after each step.

    Rank 0 writes everything. The other ranks only take part in the decisions and reports that Ray Train
    needs from all ranks.

    A checkpoint follows the rows of the steps before it. An attempt that resumes from the checkpoint of
    step n therefore removes the rows of steps from n on, and writes them again.

    Example:
        >>> attempt = run_dir.start_attempt("supernet")  # doctest: +SKIP
        >>> reporter = TrainingReporter(
        ...     task, "supernet", run_dir, 0, 1, start, attempt, job
        ... )  # doctest: +SKIP
        >>> fit(step, batch_at, start, task.num_steps, seed=0, report=reporter.report)  # doctest: +SKIP
        >>> reporter.flush()  # doctest: +SKIP
        >>> reporter.checkpoint(task.num_steps)  # doctest: +SKIP
    """

    def __init__(
        self,
        task: TrainingTask,
        name: str,
        run_dir: NodeRunDir,
        rank: int,
        world_size: int,
        start: int,
        attempt: str,
        job: Job,
    ) -> None:
        """Prepare to record, and remove the rows of steps that are repeated.

        Args:
            task: The training task.
            name: Its name, such as "supernet"; it begins the names of the files.
            run_dir: Run directory as this node has it.
            rank: This rank.
            world_size: Number of ranks.
            start: First step of this attempt.
            attempt: This attempt, from `start_attempt`.
            job: The job.
        """
        self._task = task
        self._name = name
        self._run_dir = run_dir
        self._layout = RunLayout(run_dir.folder)
        self._rank = rank
        self._world_size = world_size
        self._attempt = attempt
        self._start = start
        self._checkpoint_seconds = job.train.checkpoint_seconds

        # Rows of the tables `steps` and `distribution` that are not written yet.
        self._step_rows: list[dict[str, Any]] = []
        self._theta_rows: list[dict[str, Any]] = []
        self._first_step = start

        self._checkpoint_time = time.monotonic()
        self._progress_time = 0.0

        if rank == 0:
            self._remove_rows_of_others()
            if start == 0:
                self._theta_rows = task.distribution_rows(0)

    def report(self, index: int, result: StepResult, seconds: float) -> None:
        """Record one step. Rows, progress and a checkpoint are written when they are due.

        Args:
            index: The step.
            result: Result of the step.
            seconds: Wall time of the step.
        """
        num_done = index + 1

        if self._rank == 0:
            metrics = {"loss": result.loss, **result.info}
            self._step_rows.append(
                {
                    "run": self._layout.path.name,
                    "method": self._task.method,
                    "step": index,
                    "epoch": index / self._task.steps_per_epoch,
                    "tokens": result.tokens,
                    "seconds": seconds,
                    "training": self._name,
                    "flops": result.flops,
                    **metrics,
                }
            )
            # Theta is recorded with the rows, and each phase needs it after its first step.
            if num_done % FLUSH_STEPS == 0 or self._task.is_phase_start(index):
                self.flush()
            self._write_progress(num_done, metrics)

        # Every rank takes this branch at the same step, because the ranks decide together.
        if num_done % CHECK_STEPS == 0 and num_done < self._task.num_steps and self._is_checkpoint_due():
            self.checkpoint(num_done)

    def flush(self) -> None:
        """Write the rows since the last call, and theta after the last of these steps; rank 0 only."""
        if not self._step_rows:
            return

        self._run_dir.check_attempt()
        part = name_part(self._name, self._first_step, self._attempt)
        next_step = self._step_rows[-1]["step"] + 1
        write_rows(self._layout.path, "steps", self._step_rows, part)

        theta_rows = self._theta_rows + self._task.distribution_rows(next_step)
        if theta_rows:
            write_rows(self._layout.path, "distribution", theta_rows, part)
        self._run_dir.push()
        # A worker of an earlier attempt may have written after this attempt began.
        self._remove_rows_of_others()

        # After the writes: rows that could not be written are not lost.
        self._step_rows = []
        self._theta_rows = []
        self._first_step = next_step

    def checkpoint(self, step: int) -> None:
        """Save everything that step `step` depends on. All ranks call this together.

        Args:
            step: Number of steps that are done.
        """
        # Ray Train waits for a report of every rank; the checkpoint comes with that of rank 0.
        if self._rank != 0:
            ray.train.report({"step": step})
        else:
            self.flush()
            state = {"step": step, **self._task.checkpoint_state(step)}
            weights = self._task.model.state_dict()
            optimizer = self._task.updater.state_tensors()

            with tempfile.TemporaryDirectory() as folder:
                save_checkpoint(Path(folder), weights, optimizer, state)
                ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder))

        self._checkpoint_time = time.monotonic()

    def _is_checkpoint_due(self) -> bool:
        """Return rank 0's answer on every rank: their clocks differ."""
        is_due = time.monotonic() - self._checkpoint_time >= self._checkpoint_seconds
        if self._world_size > 1:
            is_due = broadcast_from_rank_zero(is_due)
        return is_due

    def _remove_rows_of_others(self) -> None:
        """Remove the rows that earlier attempts wrote from the first step of this attempt on.

        This attempt writes them again.
        """
        for table in ("steps", "distribution"):
            for path in part_files(self._layout.path, table):
                part = read_part_name(path.stem)
                if part is None or part.training != self._name:
                    continue
                # Not the rows of later attempts: this one may have been replaced a moment ago.
                is_earlier = attempt_number(part.attempt) < attempt_number(self._attempt)
                if is_earlier and part.first_step >= self._start:
                    self._run_dir.remove(path)

    def _write_progress(self, num_done: int, metrics: dict[str, Any]) -> None:
        now = time.monotonic()
        is_last = num_done == self._task.num_steps
        if now - self._progress_time <= PROGRESS_SECONDS and not is_last:
            return

        self._progress_time = now
        self._run_dir.check_attempt()
        progress = {"done": num_done, "total": self._task.num_steps, **metrics}
        write_json(self._layout.progress(self._name), progress)
        self._run_dir.push()
