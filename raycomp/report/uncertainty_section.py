"""How to read the scores of comparable runs: standard errors, intervals, and sentences."""

from __future__ import annotations

from typing import Any

from raycomp.report.formatting import format_score, format_signed, is_finite_number
from raycomp.report.loading import RunRecord, RunTables
from raycomp.report.statistics import bootstrap_replicates, percentile_interval
from raycomp.report.study_results import TEACHER, load_predictions
from raycomp.report.uncertainty import (
    BINOMIAL,
    describe_best,
    describe_gap,
    describe_teacher_difference,
    effective_examples,
    newcombe_interval,
    standard_error,
    wilson_interval,
)


def build_uncertainty_section(tables: RunTables, metric: str) -> dict[str, Any]:
    """Return a table of intervals (`rows`), `sentences` on them, and `basis`: what they rest on."""
    rows: list[dict[str, Any]] = []
    sentences: list[str] = []
    for run in tables.runs:
        deployed = tables.of(run.name).deployments
        deployed = deployed[deployed["validation"].notna()]
        counts = _counts(run) if metric in BINOMIAL else None
        for row in deployed.to_dict("records"):
            figures = _figures(row, counts)
            if counts is None:
                figures |= _bootstrapped(run, row, metric)
            rows.append({"run": run.name, **figures})
        if counts is not None and len(deployed):
            said = _sentences(deployed.to_dict("records"), run, counts, metric)
            sentences += [f"{run.name}: {s}" if len(tables.runs) > 1 else s for s in said]
    return {"rows": rows, "sentences": sentences, "basis": _explain_intervals(tables, metric)}


def _counts(run: RunRecord) -> tuple[float, float] | None:
    """Return how many examples the selection and the validation score are worth."""
    selection, validation = run.examples("selection"), run.examples("validation")
    return (
        (effective_examples(selection), effective_examples(validation))
        if selection and validation
        else None
    )


def _figures(row: dict[Any, Any], counts: tuple[float, float] | None) -> dict[str, str]:
    gap = row["selection"] - row["validation"]
    found = {
        "name": f"{row['method']} {row['budget']}",
        "validation": format_score(row["validation"]),
        "error": "",
        "interval": "",
        "gap": format_signed(gap),
        "gap_interval": "",
    }
    if counts is None:
        return found
    low, high = wilson_interval(row["validation"], counts[1])
    found["error"] = format_score(standard_error(row["validation"], counts[1]))
    found["interval"] = f"{low:.3f} to {high:.3f}"
    if is_finite_number(row["selection"]):
        low, high = newcombe_interval(row["selection"], counts[0], row["validation"], counts[1])
        found["gap_interval"] = f"{low:+.3f} to {high:+.3f}"
    return found


def _bootstrapped(run: RunRecord, row: dict[Any, Any], metric: str) -> dict[str, str]:
    """Return error and interval of a score from what the model answered, where that was kept."""
    value = float(row["validation"])
    answers = load_predictions(run.path, str(row["method"]), str(row["budget"]), metric, value)
    if answers is None:
        return {}
    drawn = bootstrap_replicates(metric, [answers])
    low, high = percentile_interval(drawn)
    return {"error": format_score(float(drawn.std())), "interval": f"{low:.3f} to {high:.3f}"}


def _sentences(
    rows: list[dict[Any, Any]], run: RunRecord, counts: tuple[float, float], metric: str
) -> list[str]:
    selection, validation = counts
    named = [(f"{r['method']} {r['budget']}", r) for r in rows]
    teacher, chosen = run.teacher_score("validation"), run.teacher_score("selection")
    teacher_gap = None if teacher is None or chosen is None else chosen - teacher
    said = []
    answers = {
        name: load_predictions(
            run.path, str(r["method"]), str(r["budget"]), metric, float(r["validation"])
        )
        for name, r in named
    }
    if teacher is not None:
        answers[TEACHER] = load_predictions(run.path, TEACHER, TEACHER, metric, teacher)

    def paired(one: str, other: str) -> tuple[float, float] | None:
        first, second = answers.get(one), answers.get(other)
        if first is None or second is None or not first.same_examples(second):
            return None
        return percentile_interval(
            bootstrap_replicates(metric, [first]) - bootstrap_replicates(metric, [second])
        )

    for name, row in named:
        parts = []
        if teacher is not None:
            interval = paired(name, TEACHER)
            parts.append(describe_teacher_difference(row["validation"], teacher, validation, interval))
        if is_finite_number(row["selection"]):
            scores = (row["selection"], selection, row["validation"], validation)
            parts.append(describe_gap(*scores, teacher_gap))
        said.append(f"{name}: {' '.join(parts)}")
    if len(named) > 1:
        said.append(describe_best([(n, r["validation"]) for n, r in named], validation, paired))
    return said


def _explain_intervals(tables: RunTables, metric: str) -> str:
    if metric not in BINOMIAL:
        return (
            f"{metric or 'The metric'} is not a share of right answers, so the binomial does not apply: "
            "standard errors and intervals of 95% are a bootstrap's over the examples, where a run kept "
            "what its models answered, and are left out where it did not. They do not cover the seeds of "
            "training and search. The gap is selection minus validation."
        )
    counts = [
        f"{run.name}: {sum(run.examples('selection')):,} on selection, "
        f"{' + '.join(f'{n:,}' for n in run.examples('validation'))} on validation"
        for run in tables.runs
        if _counts(run) is not None
    ]
    if not counts:
        return "No standard error is given: the teacher's score, which counts the examples, is missing."
    return (
        "The standard error is binomial, sqrt(p (1 - p) / n), from the number of examples "
        f"({'; '.join(counts)}). It covers the choice of these examples, not the seeds of training "
        "and search: another run can differ by more. Intervals are of 95%: Wilson's for a score; for a "
        "difference on the same examples, where a run kept what its models answered, a paired "
        "bootstrap's over the examples, else Newcombe's, which takes the two as independent and tells "
        "fewer apart. Intervals are not widened for the number of comparisons. "
        "Selection chose the architectures, so that it flatters them; validation chose nothing."
    )
