"""The `Run` handle of a method in this process, without Ray: for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from raycomp.config.search import SearchSettings
from raycomp.data.batches import Batch, collate
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.base import Forward, ProgressUpdate, Run
from raycomp.methods.context import RunContext
from raycomp.methods.registry import (
    load_method_class,
    load_sampler,
    load_training_task,
)
from raycomp.methods.scoring import score_forward
from raycomp.methods.task_vocabulary import reading_cut_ids
from raycomp.methods.tasks import SharedSampler, TrainingTask
from raycomp.runtime.training.checkpoints import load_checkpoint, save_checkpoint
from raycomp.search.outcome import Outcome
from raycomp.search.search_loop import SearchLoop, SearchTrial, search_groups
from raycomp.storage.files import write_json
from raycomp.storage.tables import write_rows
from raycomp.training.evaluation import Score
from raycomp.training.loop import StepResult, fit
from raycomp.training.seeding import worker_seed

CPU = torch.device("cpu")


class InProcessSampler:
    """A learning sampler of one rank, in this process. It replaces the actor's client of a cluster."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler

    def ask(self, step: int) -> list[Architecture]:
        """Return the architectures of a step."""
        return list(self._sampler.ask(step))

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Hand in the losses of a step."""
        self._sampler.tell(step, list(losses))

    def info(self, step: int) -> dict[str, Any]:
        """Return the columns of table `steps` that the sampler knows."""
        return dict(self._sampler.info(step))

    def state(self, step: int) -> dict[str, Any]:
        """Return the sampler's state."""
        return dict(self._sampler.state_dict())

    def probabilities(self, step: int) -> list[tuple[str, str, float]]:
        """Return the distribution as rows."""
        return list(self._sampler.probabilities(self._sampler.state_dict()))

    def missing(self, step: int) -> list[int]:
        """Return no ranks: there is only one."""
        return []


class LocalRun(Run):
    """The handle of one method in this process, without Ray. Training resumes from a checkpoint on disk.

    Args:
        context: The run's context, as the method has it.
        stop_after: Number of training steps after which `KeyboardInterrupt` is raised; None: never.

    Attributes:
        trained: Names of the trainings that were run.
        last_task: The last of them; None before the first.
    """

    def __init__(self, context: RunContext, stop_after: int | None = None) -> None:
        self.context = context
        self.trained: list[str] = []
        self.last_task: TrainingTask | None = None
        self._steps_left = stop_after

    def train(self, name: str, plan: dict[str, Any]) -> None:
        """Run a training task on one rank."""
        self.trained.append(name)
        context = self.context
        task: TrainingTask = load_training_task(context.method, name)(
            context, plan, device=CPU, reduce=None
        )
        self.last_task = task
        folder = context.run_dir / "local-checkpoints" / name
        start, state = 0, None
        if (folder / "state.json").exists():
            weights, optimizer, state = load_checkpoint(folder)
            task.model.load_state_dict(weights)
            task.updater.load_state_tensors(optimizer)
            start = int(state["step"])

        task.begin(0, 1, _restore_sampler(context, plan, state))
        tokens = task.tokens
        batches = task.batch_plan()

        def batch_at(index: int) -> Batch:
            rows = batches.rows(index)
            total_tokens = int(tokens.row_lengths(rows).sum())
            return collate(tokens, rows, context.pad_id, total=len(rows), total_tokens=total_tokens)

        step_rows: list[dict[str, Any]] = []

        def report(index: int, result: StepResult, seconds: float) -> None:
            step_rows.append(_step_row(task, name, index, result, seconds))
            if self._steps_left is None:
                return
            self._steps_left -= 1
            if self._steps_left <= 0:
                checkpoint = {"step": index + 1, **task.checkpoint_state(index + 1)}
                weights = task.model.state_dict()
                save_checkpoint(folder, weights, task.updater.state_tensors(), checkpoint)
                raise KeyboardInterrupt

        seed = worker_seed(task.data_seed, rank=0)
        fit(task.step, batch_at, start, task.num_steps, seed=seed, report=report)
        # A training can have ended just before it was interrupted.
        if step_rows:
            write_rows(context.run_dir, "steps", step_rows, f"{name}-{start:09d}.local")
        task.finish()

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
        """Call the function once per tuple, one after the other."""
        for i, arguments in enumerate(calls):
            function(self.context, *json.loads(json.dumps(arguments)))
            update(i + 1, len(calls), {})

    def sweep(self, trials: Sequence[dict[str, Any]], tasks: Sequence[str], *, cpus: float = 1.0) -> None:
        """Run the trials one after the other."""
        for trial in trials:
            load_method_class(self.context.method)().run_trial(self, trial)

    def parallel_trainings(self, cpus: float) -> int:
        """Return 1: this process trains one thing at a time."""
        return 1

    def search(self, settings: SearchSettings) -> list[Outcome]:
        """Search every budget with the super-network in this process."""
        job = self.context.job.model_copy(update={"search": settings})
        context = RunContext(job, self.context.run_dir, method=self.context.method)
        supernet = context.supernet().eval()
        outcomes = []
        for group in search_groups(context):
            trial = SearchTrial(group.name, settings.searchers[0], settings.seeds[0])
            loop = SearchLoop(context, context.sampler_state(), trial)
            while archs := loop.ask():
                scores = [
                    self.score(
                        reading_cut_ids(context, arch.table, _slice(supernet, arch)),
                        "selection",
                        is_cut=arch.table.is_cut,
                    )
                    for arch in archs
                ]
                values = [score.values[context.primary] for score in scores]
                loop.tell(archs, values, [score.loss for score in scores])

            for budget in loop.members:
                arch, value, loss = loop.best(budget.name)
                outcome = Outcome(
                    budget.name, budget.kind, context.limit(budget), trial.searcher, trial.seed,
                    arch.to_json(), value, loss, loop.num_evaluations, 0.0,
                )  # fmt: skip
                path = context.files.search_outcome(budget.name, trial.searcher, trial.seed)
                write_json(path, outcome.__dict__)
                outcomes.append(outcome)
        return outcomes

    @contextmanager
    def start_sampler(self, plan: dict[str, Any]) -> Iterator[None]:
        """Do nothing: the sampler is in this process."""
        yield

    @contextmanager
    def bar(self, name: str) -> Iterator[ProgressUpdate]:
        """Show nothing."""
        yield lambda done, total, info: None

    def say(self, text: str) -> None:
        """Show nothing."""

    def score(self, forward: Forward, split: str, *, is_cut: bool = False) -> Score:
        """Score a forward function on a split."""
        return score_forward(self.context.cut if is_cut else self.context, forward, split)

    def record_evaluations(self, part: str, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows of table `evaluations`."""
        write_rows(self.context.run_dir, "evaluations", rows, part)

    def record_cost(self, part: str, row: dict[str, Any]) -> None:
        """Write one row of table `costs`."""
        write_rows(self.context.run_dir, "costs", [row], part)


def _step_row(
    task: TrainingTask, name: str, index: int, result: StepResult, seconds: float
) -> dict[str, Any]:
    """Return the row of table `steps`, as far as the tests and the costs read it."""
    return {
        "run": task.context.run_dir.name,
        "method": task.method,
        "training": name,
        "step": index,
        "loss": result.loss,
        "tokens": result.tokens,
        "flops": result.flops,
        "seconds": seconds,
    }


def _slice(supernet: ElasticEncoder, arch: Architecture) -> Forward:
    return lambda batch: supernet(batch, arch).logits


def _restore_sampler(
    context: RunContext, plan: dict[str, Any], state: dict[str, Any] | None
) -> SharedSampler | None:
    """Return the sampler that an actor would serve; None where the task makes its own."""
    settings = plan.get("sampler", {})
    if "actor" not in settings:
        return None
    sampler = load_sampler(settings["name"])(context.job, plan)
    sampler.load_state_dict(settings["state"] if state is None else state["sampler"])
    return InProcessSampler(sampler)
