"""Rows of the tables `evaluations`, `deployments` and `costs` that more than one module writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

PENALTY_KINDS = ("beta",)
"""Kinds of `deployments` whose limit is the weight of a penalty, not a limit on the cost."""


@dataclass(frozen=True)
class EvaluationRow:
    """The score of one architecture on one split.

    An evaluator knows the first eleven fields. `complete` adds those of the run.

    Attributes:
        arch_id: Id of the architecture.
        arch: The architecture as JSON.
        split: Split that was scored.
        precision: Precision of the computation, "bf16" or "fp32".
        metric: Name of the metric.
        value: The metric, from 0 to 1 (correlations: from -1).
        loss: Mean loss of an example.
        examples: Number of examples.
        params: Parameters of the whole model.
        flops: FLOPs of one sequence.
        seconds: Time of the evaluation. An equal share, if several architectures were scored at once.
        run: Name of the run directory.
        method: Compression method.
        weights_id: Hash of the weights that the architecture was scored with.
        created_at: Time at which the row was made, in UTC.
        weights: "inherited" from a super-network, "healed", or "finalist" after a round of AdaBERT's
            finalists; None for a network that was trained on its own.
    """

    arch_id: str
    arch: str
    split: str
    precision: str
    metric: str
    value: float
    loss: float
    examples: int
    params: int
    flops: float
    seconds: float
    run: str | None = None
    method: str | None = None
    weights_id: str | None = None
    created_at: datetime | None = None
    weights: str | None = None

    def complete(self, run: str, method: str, weights_id: str) -> EvaluationRow:
        """Return the row with the fields of the run and the present time."""
        now = datetime.now(UTC)
        return replace(self, run=run, method=method, weights_id=weights_id, created_at=now)

    def to_row(self) -> dict[str, Any]:
        """Return the columns that have a value."""
        return _columns(asdict(self))

    def to_json(self) -> dict[str, Any]:
        """Return the columns that have a value, as JSON values."""
        row = self.to_row()
        if self.created_at is not None:
            row["created_at"] = self.created_at.isoformat()
        return row


def row_of_json(row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that `EvaluationRow.to_json` returned."""
    return {**row, "created_at": datetime.fromisoformat(row["created_at"])}


@dataclass(frozen=True)
class DeploymentRow:
    """One deployed model, or a budget that no architecture satisfies.

    `to_row` adds the columns that follow from others: params_ratio, gap, retention and used_share.

    Attributes:
        run: Name of the run directory.
        method: Compression method.
        budget: Name of the budget, or of the trial's setting.
        kind: What the limit limits: "params", "encoder_params", "flops", "latency_ms", "memory_mb",
            "size_mb"; "limits" for several; or "beta" (AdaBERT's penalty).
        limit: The limit in the unit of its kind.
        feasible: Whether a model was deployed. If not, `reason` says why, and the fields below are None.
        searcher: Searcher that found the architecture.
        seed: Seed of the searcher, on top of run.seed.
        metric: Metric of all scores of this row.
        evaluations: Architectures that the searches of this budget scored.
        teacher_validation: Validation score of the teacher.
        seconds: Time of these searches.
        reason: Why no architecture satisfies the budget.
        arch_id: Id of the architecture.
        arch: The architecture as JSON.
        params: Parameters of the exported model, counted after it was loaded back.
        full_params: Parameters of the full network. It becomes `params_ratio`.
        encoder_params: Parameters of the Transformer layers or CNN cells.
        flops: FLOPs of one sequence.
        cost: What the budget limits, counted on the exported model or measured in its runtime. Of several
            limits it is the largest used share.
        selection: Selection score.
        validation: Validation score of the exported model.
        parity: Largest difference of a logit between the trained and the exported model.
        latency_ms: Median time of one text in PyTorch on one CPU thread, not in a budget's runtime.
        export: Directory of the exported model, relative to the run directory; None if it was removed.
        inherited: Selection score of the best network of the search, with inherited weights.
        healed: Selection score of the best healed network.
        heal_networks: Networks that were healed for this budget.
        heal_steps: Training steps of the best healed network, all its rounds together.
        heal_tokens: Tokens of the training text of all of them.
        heal_seconds: Time of their healing.
        verdict: Verdict on a budget for a device: "PASS", "FAIL" or "NOT CERTIFIED"; None for other
            budgets.
        vocab_size: Tokens of the word table.
        word_rank: Rank of the word table, where it is the product of two matrices.
        warning: What is wrong with the scores, in short: "chance" or "low retention"; None if nothing is.
    """

    run: str
    method: str
    budget: str
    kind: str
    limit: float | None
    feasible: bool
    searcher: str
    seed: int
    metric: str
    evaluations: int
    teacher_validation: float
    seconds: float | None = None
    reason: str | None = None
    arch_id: str | None = None
    arch: str | None = None
    params: int | None = None
    full_params: float | None = None
    encoder_params: int | None = None
    flops: float | None = None
    cost: float | None = None
    selection: float | None = None
    validation: float | None = None
    parity: float | None = None
    latency_ms: float | None = None
    export: str | None = None
    inherited: float | None = None
    healed: float | None = None
    heal_networks: int | None = None
    heal_steps: int | None = None
    heal_tokens: int | None = None
    heal_seconds: float | None = None
    warning: str | None = None
    verdict: str | None = None
    vocab_size: int | None = None
    word_rank: int | None = None

    @property
    def params_ratio(self) -> float | None:
        """Parameters over those of the full network."""
        return _ratio(self.params, self.full_params)

    @property
    def gap(self) -> float | None:
        """Selection score minus validation score."""
        if self.selection is None or self.validation is None:
            return None
        return self.selection - self.validation

    @property
    def retention(self) -> float | None:
        """Validation score over that of the teacher."""
        return _ratio(self.validation, self.teacher_validation)

    @property
    def used_share(self) -> float | None:
        """Cost over limit; None if the limit is the weight of a penalty."""
        if self.kind in PENALTY_KINDS:
            return None
        return _ratio(self.cost, self.limit)

    def to_row(self) -> dict[str, Any]:
        """Return the columns that have a value."""
        columns = asdict(self)
        del columns["full_params"]
        columns |= {
            "params_ratio": self.params_ratio,
            "gap": self.gap,
            "retention": self.retention,
            "used_share": self.used_share,
        }
        return _columns(columns)


@dataclass(frozen=True)
class CostRow:
    """What a part of a method's work costs.

    Attributes:
        run: Name of the run directory.
        method: Compression method, or "teacher".
        work: "training", "healing", "preparation" or "scoring".
        part: Name of the training, or of the work.
        budget: Budget that it was done for; None for work that all budgets share.
        count: Training steps, or scored networks.
        tokens: Tokens of text that were read, once for each network that read them.
        flops: FLOPs; None if the steps are of a version that did not count them.
        passes: FLOPs over those of training the full network for one pass over the training split.
        seconds: Wall time.
    """

    run: str
    method: str
    work: str
    part: str
    budget: str | None = None
    count: float | None = None
    tokens: float | None = None
    flops: float | None = None
    passes: float | None = None
    seconds: float | None = None

    def part_of(self, share: float, budget: str | None) -> CostRow:
        """Return a share of this cost as the cost of one budget."""
        amounts: dict[str, Any] = {
            name: None if value is None else value * share
            for name, value in asdict(self).items()
            if name in ("count", "tokens", "flops", "passes", "seconds")
        }
        return replace(self, budget=budget, **amounts)

    def to_row(self) -> dict[str, Any]:
        """Return the columns that have a value."""
        return _columns(asdict(self))


@dataclass(frozen=True)
class RuntimeRow:
    """One file of ONNX Runtime or OpenVINO that was timed in turns with the files of the teacher.

    Attributes:
        run: Name of the run directory.
        method: Compression method, or "teacher".
        budget: Budget of the model, or "teacher".
        runtime: "onnxruntime", "onnxruntime-int8", "openvino" or "openvino-int8".
        threads: Threads of one operation.
        batch: Texts of a pass.
        length: Tokens of each text; the longest one where texts of several lengths are mixed.
        size_mb: Size of the file in MB.
        selection: Score on the selection split in this runtime.
        validation: Score on the validation split in this runtime.
        metric: Name of the metric.
        p50_ms: Median time of a pass.
        p95_ms: 95th percentile.
        speedup: Time of the teacher in INT8 over that of this file; None where INT8 was refused for it.
        lengths: The lengths in words, where texts of several lengths are mixed.
    """

    run: str
    method: str
    budget: str
    runtime: str
    threads: int
    batch: int
    length: int
    size_mb: float
    selection: float
    validation: float
    metric: str
    p50_ms: float | None = None
    p95_ms: float | None = None
    speedup: float | None = None
    lengths: str | None = None

    def to_row(self) -> dict[str, Any]:
        """Return the columns that have a value."""
        return _columns(asdict(self))


def _ratio(value: float | None, whole: float | None) -> float | None:
    if value is None or not whole:
        return None
    return value / whole


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}
