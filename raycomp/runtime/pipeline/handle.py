"""The `Run` handle on Ray: what a method asks for, done by Ray Train, Ray Tune, tasks and actors."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from raycomp.config.loader import parse_job
from raycomp.config.search import SearchSettings
from raycomp.errors import UserError
from raycomp.methods.base import Forward, ProgressUpdate, Run
from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_method_class
from raycomp.methods.scoring import score_forward
from raycomp.runtime.cluster.actor_filesystem import find_file_server
from raycomp.runtime.cluster.capacity import count_worker_slots, share_cpus, total_gpus
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.devices import check_granted_gpus
from raycomp.runtime.cluster.grid import describe_failed_trials, run_grid
from raycomp.runtime.cluster.memory import release_memory
from raycomp.runtime.cluster.placement import schedule_outside_trial
from raycomp.runtime.cluster.progress import Progress, polling
from raycomp.runtime.cluster.replica import synced_run_dir
from raycomp.runtime.cluster.tasks import run_tasks
from raycomp.runtime.cluster.waiting import GroupsNotice
from raycomp.runtime.pipeline.parallel_work import (
    WorkSize,
    limit_parallel,
    plan_tasks,
    task_bytes,
    training_bytes,
)
from raycomp.runtime.scoring.deployment_search import search_budgets
from raycomp.runtime.scoring.evaluators import start_scoring
from raycomp.runtime.training.sampler_client import start_sampler
from raycomp.runtime.training.trainer import run_training
from raycomp.search.outcome import Outcome
from raycomp.storage.files import file_hash
from raycomp.storage.tables import write_rows
from raycomp.training.evaluation import Score

TITLES = {
    "supernet": "super-network",
    "heal": "healing",
    "uniform-heal": "uniform healing",
    "adabert-round": "adabert finalists",
    "write_augmented": "augmentation",
    "finetune_network": "fine-tuning",
    "prune_for_budget": "pruning",
}
"""Titles of progress bars, where they differ from the name of the training task or of the function."""


class RayRun(Run):
    """The handle of one method in one run.

    Args:
        context: The run's context, as the method has it.
        progress: Shows bars and lines; None in a process of a sweep.
        cpus: CPUs of each training worker; 0: a fair share of the cluster.
    """

    def __init__(self, context: RunContext, progress: Progress | None, cpus: float = 0) -> None:
        self.context = context
        self._progress = progress
        self._cpus = cpus
        self._job = context.job.model_dump(mode="json")

    def train(self, name: str, plan: dict[str, Any]) -> None:
        """Run a training task on Ray Train; see `Run.train`."""
        context = self.context
        task = name.partition(".")[0]
        # The workers need the memory that this process used for preparation.
        if self._progress is not None:
            release_memory()
        with self.bar(TITLES.get(task, task)) as bar:
            run_training(
                name,
                context.job,
                context.run_dir,
                plan,
                bar,
                method=context.method,
                cpus=self._cpus,
                say=self.say,
            )

    def tasks(
        self,
        function: Callable[..., None],
        calls: Sequence[tuple[Any, ...]],
        update: ProgressUpdate,
        *,
        teacher: bool = False,
        sources: bool = False,
        also: str = "",
    ) -> None:
        """Run a function in parallel Ray tasks; see `Run.tasks`."""
        threads = share_cpus(1) if teacher else 1
        title = TITLES.get(function.__name__, function.__name__.strip("_").replace("_", " "))
        # Other nodes may lack the data or the model.
        is_pinned = sources and find_file_server(self.context.run_dir.name) is not None
        memory = task_bytes(self.context, reads_models=teacher or sources)
        plan = plan_tasks(
            len(calls), threads, memory, needs_gpu=teacher and total_gpus() > 0, is_pinned=is_pinned
        )

        job = json.dumps(self._job, sort_keys=True)
        run_dir = str(self.context.run_dir)
        method = self.context.method

        def call(*arguments: Any) -> None:
            check_granted_gpus()
            with synced_run_dir(run_dir, also) as folder:
                if not torch.cuda.is_available():
                    torch.set_num_threads(threads)
                function(_task_context(job, str(folder), method), *arguments)

        # The file of a failed task's stack trace has this name.
        call.__name__ = function.__name__
        run_tasks(
            call,
            calls,
            plan.options,
            lambda done: update(done, len(calls), {}),
            plan.limit(title, self.say),
            say=self.say,
            run_dir=self.context.run_dir,
            title=title,
            node_seconds=self.context.job.train.barrier_seconds,
        )

    def sweep(self, trials: Sequence[dict[str, Any]], tasks: Sequence[str], *, cpus: float = 1.0) -> None:
        """Run trials in parallel on Ray Tune, each with trainings of its own; see `Run.sweep`."""
        context = self.context
        job = self._job
        run_dir = str(context.run_dir)
        method = context.method
        cpus = context.job.train.cpus or cpus
        title = TITLES.get(tasks[0], f"{method} sweep")
        max_parallel = self._limit_trainings(title, trials, cpus)

        strategy = schedule_outside_trial(find_file_server(context.run_dir.name) is None)
        remote_trial = ray.remote(num_cpus=0, max_calls=1, max_retries=0, scheduling_strategy=strategy)(
            _run_trial
        )

        def run_one(trial: dict[str, Any]) -> dict[str, Any]:
            ray.get(remote_trial.remote(job, run_dir, method, trial, cpus))
            return {}

        names = [f"{task}.{trial['name']}" for trial in trials for task in tasks]
        with self.bar(title) as bar:
            waits = GroupsNotice(title, self.say)

            def show_progress() -> None:
                waits.update()
                shares = [_share_done(context.layout.progress(name)) for name in names]
                bar(round(sum(shares) * 100 / len(tasks)), 100 * len(trials), {})

            with polling(show_progress):
                results = run_grid(
                    trials,
                    run_one,
                    name=method,
                    folder=context.run_dir,
                    max_parallel=max_parallel,
                    max_failures=3,
                )

        if problem := describe_failed_trials(results, method):
            raise UserError(problem)

    def parallel_trainings(self, cpus: float) -> int:
        """Return how many trainings fit into the cluster; see `Run.parallel_trainings`."""
        train = self.context.job.train
        slots = count_worker_slots(train.cpus or cpus, train.gpus)
        return max(1, slots // train.workers)

    def _limit_trainings(self, title: str, trials: Sequence[dict[str, Any]], cpus: float) -> int:
        """Return how many trials of a sweep may run at the same time.

        The number of groups of networks does not depend on this: a run that resumes has the same groups,
        also if other memory is free then.
        """
        train = self.context.job.train
        memory = max((training_bytes(self.context, trial) for trial in trials), default=1)
        size = WorkSize(cpus, float(train.gpus), memory, train.workers)
        return limit_parallel(title, self.parallel_trainings(cpus), len(trials), size, self.say)

    def search(self, settings: SearchSettings) -> list[Outcome]:
        """Search the super-network through the ledger; see `Run.search`."""
        job = self.context.job.model_copy(update={"search": settings})
        context = RunContext(job, self.context.run_dir, method=self.context.method)
        context.tokens("selection")
        precision = context.chosen_precision()
        weights_id = file_hash(context.files.supernet_network)

        ledger, evaluators = start_scoring(
            job.model_dump(mode="json"),
            context.run_dir,
            weights_id,
            context.primary,
            context.method,
            self.say,
        )
        try:
            with self.bar("search") as bar:
                outcomes = search_budgets(
                    context,
                    ledger,
                    precision,
                    lambda done, total, best: bar(done, total, {"best": best}),
                    say=self.say,
                )
            ray.get(ledger.flush.remote())
        finally:
            for actor in (ledger, *evaluators):
                ray.kill(actor)
        return outcomes

    @contextmanager
    def start_sampler(self, plan: dict[str, Any]) -> Iterator[None]:
        """Start the sampler's actor, where the plan names one; see `Run.start_sampler`."""
        name = plan["sampler"].get("actor")
        if name is None:
            yield
            return

        actor = start_sampler(name, self._job, plan, self.context.files.sampler_snapshot)
        try:
            yield
        finally:
            ray.kill(actor)

    @contextmanager
    def bar(self, name: str) -> Iterator[ProgressUpdate]:
        """Show a progress bar; see `Run.bar`."""
        if self._progress is None:
            yield lambda done, total, info: None
            return
        with self._progress.bar(name) as update:
            yield update

    def say(self, text: str) -> None:
        """Show one line."""
        if self._progress is not None:
            self._progress.say(text)

    def score(self, forward: Forward, split: str, *, is_cut: bool = False) -> Score:
        """Score a forward function in this process; see `Run.score`."""
        return score_forward(self.context.cut if is_cut else self.context, forward, split)

    def record_evaluations(self, part: str, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows of table `evaluations`."""
        write_rows(self.context.run_dir, "evaluations", rows, part)

    def record_cost(self, part: str, row: dict[str, Any]) -> None:
        """Write one row of table `costs`."""
        write_rows(self.context.run_dir, "costs", [row], part)


def run_handle(
    context: RunContext, method: str, progress: Progress
) -> tuple[RayRun, AbstractContextManager[ProgressUpdate]]:
    """Return the handle of a method, and the bar of its deployment."""
    run = RayRun(context.for_method(method), progress)
    title = "deploy" if method == "yoco" else f"{method} deploy"
    return run, run.bar(title)


@functools.lru_cache(maxsize=1)
def _task_context(job: str, run_dir: str, method: str) -> RunContext:
    """Return the context of a task; a process keeps it from task to task."""
    return RunContext(parse_job(json.loads(job)), Path(run_dir), method=method)


def _run_trial(
    job: dict[str, Any], run_dir: str, method: str, trial: dict[str, Any], cpus: float
) -> None:
    """Run one trial of a sweep, in a Ray task of its own."""
    context = RunContext(parse_job(job), Path(run_dir), method=method)
    load_method_class(method)().run_trial(RayRun(context, None, cpus), trial)


def _share_done(path: Path) -> float:
    """Return the share of a training task that is done; 0 before it begins."""
    try:
        progress = json.loads(path.read_text())
        return float(progress["done"]) / float(progress["total"])
    except (OSError, ValueError, KeyError):
        return 0.0
