"""What a compression method is: `Method`, the `Run` handle that it gets, and the `Deployable` that it
returns.

A method is free of Ray. It asks its `Run` to train, to run functions in parallel and to search, and
returns one `Deployable` per compressed model. What follows is the same for all methods: `deploy_all`
exports each model, loads it back, checks logits and budget, scores the validation split once, times it
and writes the row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from raycomp.config.budget import BudgetSettings
from raycomp.config.job import Job
from raycomp.config.search import SearchSettings
from raycomp.config.section import MethodSettings
from raycomp.data.batches import Batch
from raycomp.methods.context import RunContext
from raycomp.methods.tasks import TrainingTask
from raycomp.search.outcome import Outcome
from raycomp.training.evaluation import Score

if TYPE_CHECKING:
    # Workers of a training need no class of transformers, whose import takes seconds.
    from transformers import PreTrainedModel

Forward = Callable[[Batch], Tensor]
"""Function from a batch to logits (batch, classes)."""

ProgressUpdate = Callable[[int, int, dict[str, Any]], None]
"""Function of work done, work in all, and figures to show."""


@dataclass(frozen=True)
class Healing:
    """What the short distillation before the deployment of a network changed, and its cost.

    Attributes:
        inherited: Selection score of the best network of the search, with inherited weights.
        healed: Selection score of the best healed network.
        networks: Networks that were healed for the budget.
        steps: Training steps of the best healed network, all its rounds together.
        tokens: Tokens of the training text of all of them.
        seconds: Time of their healing.
    """

    inherited: float
    healed: float
    networks: int
    steps: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Deployable:
    """One compressed model, or a budget that cannot be met.

    Attributes:
        budget: Name of the deployment; the export is `exports/METHOD-BUDGET`.
        kind: Kind of the budget's cost, a column of table `deployments`; AdaBERT's "beta" limits nothing.
        limit: The budget's limit, in the unit of `kind`.
        build: Function that returns the static model and the forward function whose logits the exported
            model must equal. None where the budget cannot be met.
        arch: Architecture as JSON; the column `arch`.
        arch_id: Identity of the architecture; the column `arch_id`.
        flops: FLOPs of one sequence.
        selection: Score on the selection split, by which this model was chosen.
        searcher: What chose the architecture.
        seed: Seed of that search.
        evaluations: Number of architectures that were scored for this deployment.
        seconds: Wall time of the search, in seconds.
        encoder_prefix: Parameters whose name contains this text are `encoder_params`.
        description: How the model was made; a sentence of the model card.
        files: Further text files of the export, by name.
        certificate: Further figures of the export's certificate.json.
        cost: Measured cost where the budget is for a device; None where the cost is counted.
        verdict: Verdict of the certificate of such a budget; None for other budgets.
        measured_files: Directory with the measured files, which become part of the export.
        reason: Why the budget cannot be met; empty where it can.
        counts_nonzero: Whether its parameters count only where they are not 0 (unstructured pruning).
        has_user_units: Whether `build` returns outputs in the user's units. Methods leave it False, and
            the deployment restores the units.
        healing: How its weights were healed; None for a network that was not healed.
        is_cut: Whether it reads tokens of the cut vocabulary; see `task_vocabulary`.
        tolerance: Part of the limit by which the cost may exceed it.
    """

    budget: str
    kind: str
    limit: float
    build: Callable[[], tuple[PreTrainedModel, Forward]] | None
    arch: str | None = None
    arch_id: str | None = None
    flops: float = 0.0
    selection: float = 0.0
    searcher: str = "none"
    seed: int = 0
    evaluations: int = 1
    seconds: float | None = None
    encoder_prefix: str = "layers."
    description: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    certificate: Mapping[str, Any] = field(default_factory=dict)
    cost: float | None = None
    verdict: str | None = None
    measured_files: Path | None = None
    reason: str = ""
    counts_nonzero: bool = False
    has_user_units: bool = False
    healing: Healing | None = None
    is_cut: bool = False
    tolerance: float = 0.0


class Run(ABC):
    """The handle that a method gets: everything that it may ask of the platform.

    Attributes:
        context: Job, data and networks of the run. `context.method_dir` is the method's own directory.
    """

    context: RunContext

    @abstractmethod
    def train(self, name: str, plan: dict[str, Any]) -> None:
        """Run a training task to its end, on all workers; an interrupted one resumes.

        Args:
            name: Key of `Method.tasks`, optionally followed by "." and what tells several trainings of a
                kind apart. It names the task in the tables and on disk.
            plan: Values that all ranks must agree on, JSON-able.

        Raises:
            UserError: The workers do not fit into the cluster, or the training failed for good.
        """

    @abstractmethod
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
        """Call a module-level function once per tuple, in parallel; each call leaves its result in a
        file.

        Args:
            function: Function of the run's context and the values of one tuple.
            calls: Arguments after the context, JSON-able.
            update: Progress function, called with calls done and calls in all.
            teacher: Whether a call runs the teacher: it then gets a GPU where there is one.
            sources: Whether a call reads the data or the model itself, which other nodes may lack.
            also: Directory of large files that the calls read, relative to the run directory.

        Raises:
            UserError: A call failed; the files of the others stay.
        """

    @abstractmethod
    def sweep(self, trials: Sequence[dict[str, Any]], tasks: Sequence[str], *, cpus: float = 1.0) -> None:
        """Run `Method.run_trial` for each trial in parallel, each with its own share of the workers.

        Args:
            trials: Arguments of each call; the key "name" names the trial.
            tasks: Names of the training tasks of a trial. Its progress is computed from them.
            cpus: CPUs of each worker, where the job does not say.

        Raises:
            UserError: A trial failed for good.
        """

    @abstractmethod
    def parallel_trainings(self, cpus: float) -> int:
        """Return how many trainings of a sweep can run at the same time, at least 1.

        Args:
            cpus: CPUs of each worker, where the job does not say.
        """

    @abstractmethod
    def search(self, settings: SearchSettings) -> list[Outcome]:
        """Search the method's super-network for every budget; one outcome per (budget, searcher, seed).

        Args:
            settings: Searchers, seeds and number of evaluations.

        Raises:
            UserError: A trial of the search failed for good.
        """

    @abstractmethod
    def start_sampler(self, plan: dict[str, Any]) -> AbstractContextManager[None]:
        """Return the block during which the sampler that `plan` names serves all workers."""

    @abstractmethod
    def bar(self, name: str) -> AbstractContextManager[ProgressUpdate]:
        """Return a block that shows a progress bar; the block gets its update function."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Show one line to the user."""

    @abstractmethod
    def score(self, forward: Forward, split: str, *, is_cut: bool = False) -> Score:
        """Score a function on a split ("selection"), in fp32 on the CPU. See `Deployable.is_cut`."""

    @abstractmethod
    def record_evaluations(self, part: str, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows of table `evaluations`, as the file PART of the table."""

    def record_evaluation(self, part: str, row: dict[str, Any]) -> None:
        """Write one row of table `evaluations`, as the file PART of the table."""
        self.record_evaluations(part, [row])

    @abstractmethod
    def record_cost(self, part: str, row: dict[str, Any]) -> None:
        """Write one row of table `costs`, as the file PART of the table."""


class Method(ABC):
    """One compression method. The registry (`methods/registry.py`) knows it by name.

    Attributes:
        settings: Its section of the job file.
        tasks: Its training tasks, by the first part of their names.
        takes_all_limits: Whether it keeps any limit of a budget: several at once, and measured ones.
            Other methods keep one limit on params, encoder_params or flops.
    """

    settings: ClassVar[type[MethodSettings]]
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {}
    takes_all_limits: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Name in the job file and in the tables."""
        return self.settings.method

    @abstractmethod
    def compress(self, run: Run) -> list[Deployable]:
        """Return one deployable per budget (or setting). Finished parts are not repeated."""

    def run_trial(self, run: Run, trial: dict[str, Any]) -> None:
        """Run one trial of `Run.sweep`, in a process of its own."""
        raise NotImplementedError(f"method {self.name} does not define run_trial")

    @abstractmethod
    def restore(self, context: RunContext, row: Mapping[str, Any]) -> Deployable:
        """Return the deployable of a row of table `deployments`, from the files of its run.

        Raises:
            UserError: The run does not have what the row names.
        """

    def budget_of(self, context: RunContext, training: str) -> str | None:
        """Return the budget that a training is for; None where all budgets share it.

        A method whose trainings are not named TASK.BUDGET overrides this.
        """
        name = training.partition(".")[2]
        return name if name in [budget.name for budget in context.job.budget] else None

    def length_keys(self, job: Job) -> tuple[str, ...]:
        """Return the job keys of its length, which `run.equal_compute` multiplies; none: it is fixed."""
        return tuple(f"{self.name}.{key}" for key in self.settings.length_keys)

    def training_epochs(self, context: RunContext) -> float:
        """Return the passes over the training split of a network, all phases together."""
        settings = context.job.settings(self.settings)
        return float(sum(getattr(settings, key) for key in self.settings.length_keys))

    def find_problems(self, context: RunContext) -> list[str]:
        """Return one message per reason why the job would fail later; nothing is trained for it."""
        return []

    def least_cost(self, context: RunContext, kind: str) -> float | None:
        """Return the cost of the smallest model that the method can make; None if budgets do not bind it.

        Args:
            context: The run's context.
            kind: Kind of cost, as `RunContext.cost_key` returns it, such as "params".
        """
        return None

    def explain_infeasible(self, context: RunContext, budget: BudgetSettings) -> str:
        """Return why the method cannot meet a budget that is below its least cost, and what to do."""
        return f"Budget {budget.name} cannot be met by {self.name}."

    def smallest_batches(self, context: RunContext) -> list[int]:
        """Return the number of rows in the smallest batch of each training task."""
        return []

    def plan(self, context: RunContext) -> dict[str, Any]:
        """Return what `raycomp plan` prints of this method; the key "flops" has the FLOPs of training."""
        return {}

    def summary(self, run: Run) -> dict[str, Any]:
        """Return the figures of the whole method that the report shows."""
        return {}

    def release(self) -> None:  # noqa: B027 - most methods keep nothing in memory
        """Release what the method keeps in memory for its deployables."""

    def after_deployment(self, run: Run) -> None:  # noqa: B027 - most methods have nothing to do here
        """Do what follows the deployment of this method's models."""

    def forget_lost_results(self, context: RunContext, parts: set[str]) -> list[str]:
        """Delete results whose rows of table `evaluations` are missing. They are then scored again.

        Args:
            context: The run's context.
            parts: Names of the files of table `evaluations` that are there, without ending.

        Returns:
            One message per result.
        """
        return []
