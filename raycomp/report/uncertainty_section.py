"""The page's section on uncertainty: intervals of the scores, and what the scores allow to conclude."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raycomp.report.bootstrap import bootstrap_replicates, percentile_interval
from raycomp.report.formatting import format_score, format_signed, is_finite_number
from raycomp.report.loading import RunTables
from raycomp.report.predictions import TEACHER, load_predictions
from raycomp.report.run_record import RunRecord
from raycomp.report.score_uncertainty import measure_uncertainty
from raycomp.report.uncertainty import (
    BINOMIAL,
    Interval,
    describe_best,
    describe_gap,
    describe_teacher_difference,
    effective_examples,
    newcombe_interval,
)

LIMITS = (
    "They cover the random choice of the examples. They do not cover the seeds of training and search: "
    "another run can differ by more."
)


@dataclass(frozen=True)
class UncertaintySection:
    """What the section shows for comparable runs.

    Attributes:
        rows: A row for each deployed model: `run`, `name`, `validation`, `error`, `interval`, `gap`,
            `gap_interval`, all as text.
        sentences: Conclusions.
        method: How the intervals are computed, and what they cover.
    """

    rows: list[dict[str, str]]
    sentences: list[str]
    method: str


@dataclass(frozen=True)
class ExampleCounts:
    """Effective number of examples of the selection split and of the validation splits."""

    selection: float
    validation: float


def build_uncertainty_section(tables: RunTables, metric: str) -> UncertaintySection:
    """Build the section for runs that have one task and one metric."""
    rows: list[dict[str, str]] = []
    sentences: list[str] = []
    for run in tables.runs:
        frame = tables.of(run.name).deployments
        deployments = frame[frame["validation"].notna()].to_dict("records")
        counts = _count_examples(run) if metric in BINOMIAL else None
        rows += [_format_row(run, row, metric, counts) for row in deployments]
        if counts is not None and deployments:
            prefix = f"{run.name}: " if len(tables.runs) > 1 else ""
            sentences += [prefix + text for text in _conclude(deployments, run, counts, metric)]
    return UncertaintySection(rows, sentences, _explain_intervals(tables, metric))


def _count_examples(run: RunRecord) -> ExampleCounts | None:
    """Return a run's numbers of examples; None before the teacher is scored."""
    selection = run.examples("selection")
    validation = run.examples("validation")
    if not selection or not validation:
        return None
    return ExampleCounts(effective_examples(selection), effective_examples(validation))


def _model_name(row: dict[Any, Any]) -> str:
    return f"{row['method']} {row['budget']}"


def _format_interval(interval: Interval, sign: str = "") -> str:
    low, high = interval
    return f"{low:{sign}.3f} to {high:{sign}.3f}"


def _format_row(
    run: RunRecord, row: dict[Any, Any], metric: str, counts: ExampleCounts | None
) -> dict[str, str]:
    texts = {
        "run": run.name,
        "name": _model_name(row),
        "validation": format_score(row["validation"]),
        "error": "",
        "interval": "",
        "gap": format_signed(row["selection"] - row["validation"]),
        "gap_interval": "",
    }
    uncertainty = measure_uncertainty(
        run, str(row["method"]), str(row["budget"]), metric, float(row["validation"])
    )
    if uncertainty is not None:
        texts["error"] = format_score(uncertainty.error)
        texts["interval"] = _format_interval(uncertainty.interval)

    if counts is not None and is_finite_number(row["selection"]):
        gap_interval = newcombe_interval(
            row["selection"], counts.selection, row["validation"], counts.validation
        )
        texts["gap_interval"] = _format_interval(gap_interval, "+")
    return texts


def _conclude(
    rows: list[dict[Any, Any]], run: RunRecord, counts: ExampleCounts, metric: str
) -> list[str]:
    """Return a sentence on the best model, and one or two on each deployed model."""
    teacher = run.teacher_score("validation")
    teacher_selection = run.teacher_score("selection")
    teacher_gap = None
    if teacher is not None and teacher_selection is not None:
        teacher_gap = teacher_selection - teacher

    # Two models were scored on the same examples, and a paired interval is much narrower.
    find_paired = _paired_intervals(rows, run, metric)
    sentences = []
    if len(rows) > 1:
        scores = [(_model_name(row), row["validation"]) for row in rows]
        sentences.append(describe_best(scores, counts.validation, find_paired))

    for row in rows:
        name = _model_name(row)
        parts = []
        if teacher is not None:
            paired = find_paired(name, TEACHER)
            parts.append(
                describe_teacher_difference(row["validation"], teacher, counts.validation, paired)
            )
        if is_finite_number(row["selection"]):
            gap = describe_gap(
                row["selection"], counts.selection, row["validation"], counts.validation, teacher_gap
            )
            parts.append(gap)
        sentences.append(f"{name}: {' '.join(parts)}")
    return sentences


def _paired_intervals(
    rows: list[dict[Any, Any]], run: RunRecord, metric: str
) -> Callable[[str, str], Interval | None]:
    """Return a function from two models to the paired interval of their difference.

    The interval is None if the run did not save the outputs of both models on the same examples.
    """
    predictions = {
        _model_name(row): load_predictions(
            run.path, str(row["method"]), str(row["budget"]), metric, float(row["validation"])
        )
        for row in rows
    }
    teacher = run.teacher_score("validation")
    if teacher is not None:
        predictions[TEACHER] = load_predictions(run.path, TEACHER, TEACHER, metric, teacher)

    def find_paired(first: str, second: str) -> Interval | None:
        own = predictions.get(first)
        other = predictions.get(second)
        if own is None or other is None or not own.same_examples(other):
            return None
        replicates = bootstrap_replicates(metric, [own]) - bootstrap_replicates(metric, [other])
        return percentile_interval(replicates)

    return find_paired


def _explain_intervals(tables: RunTables, metric: str) -> str:
    """Return how the intervals of the section are computed, and what they cover."""
    if metric not in BINOMIAL:
        return (
            f"{metric or 'The metric'} is not a share of correct predictions, so the binomial formula "
            "does not apply. Standard errors and 95% intervals are from a bootstrap over the examples. "
            f"They are missing for a model whose outputs the run did not save. {LIMITS} The gap is "
            "selection minus validation."
        )

    counts = []
    for run in tables.runs:
        if _count_examples(run) is not None:
            validation = " + ".join(f"{count:,}" for count in run.examples("validation"))
            selection = f"{sum(run.examples('selection')):,}"
            counts.append(f"{run.name}: {selection} on selection, {validation} on validation")
    if not counts:
        return "No standard error can be given before the teacher is scored on the splits."

    return (
        "Standard errors are binomial, sqrt(p (1 - p) / n), with the number of examples "
        f"({'; '.join(counts)}). {LIMITS} The 95% interval of a score is Wilson's. The interval of a "
        "difference is a paired bootstrap over the examples if the run saved the outputs of both "
        "models; otherwise it is Newcombe's for independent examples, which detects fewer differences. "
        "Intervals are not corrected for the number of comparisons. The search used the selection split "
        "to choose the architectures, so selection scores are optimistic. The validation split was "
        "never used for model selection."
    )
