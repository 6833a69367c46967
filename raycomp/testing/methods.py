"""The conformance suite of compression methods, without Ray.

    from raycomp.testing import check_method

    def test_my_method(tmp_path):
        check_method("my_method", job, tmp_path)

`job` is a small job as a nested dict, with at least one budget that the method can meet.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from raycomp.config.elastic import SearchSettings
from raycomp.config.loader import parse_job
from raycomp.data.batches import Batch, TrainPlan, collate
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.base import Deployable, Forward, Method, ProgressUpdate, Run
from raycomp.methods.context import RunContext
from raycomp.methods.registry import (
    SAMPLERS,
    import_object,
    load_method_class,
    load_settings,
    load_training_task,
)
from raycomp.methods.scoring import score_forward
from raycomp.methods.tasks import SharedSampler, TrainingTask
from raycomp.runtime.pipeline.deploy import MAX_LOGIT_DIFFERENCE, deploy_all, export_deployable
from raycomp.runtime.training.checkpoints import load_checkpoint, save_checkpoint
from raycomp.search.outcome import Outcome
from raycomp.search.search_loop import SearchLoop, SearchTrial
from raycomp.storage.files import write_json
from raycomp.storage.tables import read_table, write_rows
from raycomp.storage.tensors import save_tensors
from raycomp.training.evaluation import Score
from raycomp.training.loop import fit

CPU = torch.device("cpu")

REQUIRED_COLUMNS = (
    "run", "method", "budget", "kind", "limit", "feasible", "searcher", "seed", "arch_id", "arch",
    "params", "params_ratio", "encoder_params", "flops", "cost", "latency_ms", "selection", "validation",
    "teacher_validation", "retention", "evaluations", "metric", "gap", "parity", "export",
)  # fmt: skip
"""Columns of table `deployments` that a deployed model must have."""


class InProcessSampler:
    """A sampler that learns, for one rank in this process: what the actor's client is on a cluster."""

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
    """

    def __init__(self, context: RunContext, stop_after: int | None = None) -> None:
        self.context = context
        self.trained: list[str] = []
        self._steps_left = stop_after

    def train(self, name: str, plan: dict[str, Any]) -> None:
        """Run a training task on one rank."""
        self.trained.append(name)
        context = self.context
        task: TrainingTask = load_training_task(context.method, name)(
            context, plan, device=CPU, reduce=None
        )
        folder = context.run_dir / "local-checkpoints" / name
        start, state = 0, None
        if (folder / "state.json").exists():
            weights, optimizer, state = load_checkpoint(folder)
            task.model.load_state_dict(weights)
            task.updater.load_state_tensors(optimizer)
            start = int(state["step"])

        task.begin(0, 1, _restore_sampler(context, plan, state))
        tokens = task.tokens
        batches = TrainPlan(tokens.lengths, task.batch_size, context.job.run.seed)

        def batch_at(index: int) -> Batch:
            rows = batches.rows(index)
            total_tokens = int(tokens.lengths[rows].sum())
            return collate(tokens, rows, context.pad_id, total=len(rows), total_tokens=total_tokens)

        def report(index: int, result: Any, seconds: float) -> None:
            if self._steps_left is None:
                return
            self._steps_left -= 1
            if self._steps_left <= 0:
                checkpoint = {"step": index + 1, **task.checkpoint_state(index + 1)}
                weights = task.model.state_dict()
                save_checkpoint(folder, weights, task.updater.state_tensors(), checkpoint)
                raise KeyboardInterrupt

        seed = context.job.run.seed * 4099
        fit(task.step, batch_at, start, task.num_steps, seed=seed, report=report)
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

    def sweep(self, trials: Sequence[dict[str, Any]], tasks: Sequence[str]) -> None:
        """Run the trials one after the other."""
        for trial in trials:
            load_method_class(self.context.method)().run_trial(self, trial)

    def search(self, settings: SearchSettings) -> list[Outcome]:
        """Search every budget with the super-network in this process."""
        job = self.context.job.model_copy(update={"search": settings})
        context = RunContext(job, self.context.run_dir, method=self.context.method)
        supernet = context.supernet().eval()
        outcomes = []
        for budget in job.budget:
            trial = SearchTrial(budget.name, settings.searchers[0], settings.seeds[0])
            loop = SearchLoop(context, context.sampler_state(), trial)
            while archs := loop.ask():
                scores = [score_forward(context, _slice(supernet, arch), "selection") for arch in archs]
                values = [score.values[context.primary] for score in scores]
                loop.tell(archs, values, [score.loss for score in scores])
            arch, value, loss = loop.best()
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

    def score(self, forward: Forward, split: str) -> Score:
        """Score a forward function on a split."""
        return score_forward(self.context, forward, split)

    def record_evaluation(self, part: str, row: dict[str, Any]) -> None:
        """Write one row of table `evaluations`."""
        write_rows(self.context.run_dir, "evaluations", [row], part)


def _slice(supernet: ElasticEncoder, arch: Architecture) -> Forward:
    return lambda batch: supernet(batch, arch).logits


def _restore_sampler(
    context: RunContext, plan: dict[str, Any], state: dict[str, Any] | None
) -> SharedSampler | None:
    """Return the sampler that an actor would serve; None where the task makes its own."""
    settings = plan.get("sampler", {})
    if "actor" not in settings:
        return None
    sampler = import_object(SAMPLERS[settings["name"]])(context.job, plan)
    sampler.load_state_dict(settings["state"] if state is None else state["sampler"])
    return InProcessSampler(sampler)


def check_method(name: str, job: dict[str, Any], storage: Path) -> None:
    """Check that a method does what the platform expects of it.

    A method must describe its settings, leave the identity of other jobs as it is, compress every
    feasible budget, repeat nothing that is finished, resume bit for bit, and deploy models with parity
    and complete rows within their budgets.

    Args:
        name: Name of the method in the registry.
        job: A small job as a nested dict; `run.methods` is set by this function.
        storage: An empty directory.

    Raises:
        AssertionError: The method breaks a rule; the message says which.
    """
    job = copy.deepcopy(job)
    job.setdefault("run", {})["methods"] = [name]
    method: Method = load_method_class(name)()

    _check_settings(name, method, job)
    context = _prepare(name, job, storage / "whole")
    _check_plan(method, context)
    run = LocalRun(context)
    deployables = method.compress(run)
    _check_deployables(method, context, deployables)

    again = LocalRun(context)
    method.compress(again)
    assert again.trained == [], f"{name} repeats finished trainings: {again.trained}"

    _check_deployment(method, context, deployables)
    _check_resume(method, job, storage / "resumed", deployables)


def _check_settings(name: str, method: Method, job: dict[str, Any]) -> None:
    schema = load_settings(name)
    assert schema is method.settings, f"{name}: the registry names another settings class"
    assert schema.method == name, f"{name}: its settings are those of {schema.method!r}"
    assert schema.title, f"{name} has no title"
    for key, field in schema.model_fields.items():
        assert field.description, f"{name}.{key} has no description"

    other = copy.deepcopy(job)
    other["run"]["methods"] = ["yoco"] if name != "yoco" else ["first_n"]
    other.pop(name, None)
    before = parse_job(other).identity()
    if schema.model_fields:
        other[name] = {}
        assert parse_job(other).identity() == before, f"[{name}] changes the identity of other jobs"


def _prepare(name: str, job: dict[str, Any], storage: Path) -> RunContext:
    """Return the context of a run whose teacher is the given model."""
    parsed = parse_job(job)
    context = RunContext(parsed, storage / parsed.run_id, method=name)
    context.run_dir.mkdir(parents=True)
    context.record_facts()
    context.precision(CPU)
    save_tensors(context.layout.teacher_network, context.network().state_dict())
    teacher = context.teacher().eval()
    scores = {}
    for split in ("selection", *(v.name for v in context.task.validation)):
        score = score_forward(context, lambda batch: teacher(batch, None).logits, split, "teacher")
        scores[split] = {**score.values, "loss": score.loss, "examples": score.examples}
    write_json(context.layout.teacher_score, scores)
    return context


def _check_plan(method: Method, context: RunContext) -> None:
    plan = method.plan(context)
    json.dumps(plan)
    assert plan.get("flops", 0) > 0, f"{method.name} does not estimate its training"
    assert method.find_problems(context) == [], f"{method.name} refuses the job"
    assert all(rows > 0 for rows in method.smallest_batches(context))


def _check_deployables(method: Method, context: RunContext, deployables: list[Deployable]) -> None:
    assert deployables, f"{method.name} returns no deployable"
    names = [deployable.budget for deployable in deployables]
    assert len(set(names)) == len(names), f"{method.name} returns a budget twice"
    if method.settings.needs_budget:
        assert names == [budget.name for budget in context.job.budget]
    for deployable in deployables:
        assert (deployable.build is None) == bool(deployable.reason), (
            f"{method.name}: a deployable has either a model or a reason"
        )
        assert deployable.build is None or deployable.description, (
            f"{method.name}: the model card of {deployable.budget} does not say how it was made"
        )
    assert any(deployable.build is not None for deployable in deployables)


def _check_deployment(method: Method, context: RunContext, deployables: list[Deployable]) -> None:
    latency_ms = deploy_all(context, deployables, lambda done, total, info: None)
    assert latency_ms > 0
    rows = read_table(context.run_dir, "deployments")
    assert len(rows) == len(deployables)
    json.dumps(method.summary(LocalRun(context)))

    for row in rows[rows["feasible"]].to_dict("records"):
        empty = [
            column for column in REQUIRED_COLUMNS if row[column] is None or row[column] != row[column]
        ]
        assert not empty, f"{method.name}: empty columns {empty}"
        assert row["parity"] <= MAX_LOGIT_DIFFERENCE
        if method.settings.needs_budget:
            assert row["cost"] <= row["limit"], f"{method.name}: {row['budget']} is above its limit"

        restored = method.restore(context, {str(key): value for key, value in row.items()})
        assert restored.arch_id == row["arch_id"], f"{method.name}: restore() returns another model"
        proof = export_deployable(context, restored, context.run_dir / "again" / str(row["budget"]))
        assert proof["params"] == row["params"]


def _check_resume(
    method: Method, job: dict[str, Any], storage: Path, deployables: list[Deployable]
) -> None:
    """Interrupt the first training in its middle, resume it, and compare the models bit for bit."""
    context = _prepare(method.name, job, storage)
    interrupted = LocalRun(context, stop_after=2)
    try:
        method.compress(interrupted)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError(f"{method.name} trains less than two steps: give a longer job")

    resumed = method.compress(LocalRun(context))
    for whole, other in zip(deployables, resumed, strict=True):
        assert whole.arch == other.arch, f"{method.name}: resuming chooses another architecture"
        assert whole.selection == other.selection, f"{method.name}: resuming changes the score"
        if whole.build is not None and other.build is not None:
            first, second = whole.build()[0].state_dict(), other.build()[0].state_dict()
            for key, tensor in first.items():
                assert torch.equal(tensor, second[key]), f"{method.name}: resuming changes {key}"
