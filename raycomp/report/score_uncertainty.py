"""The standard error and the 95% interval of one model's validation score."""

from __future__ import annotations

from dataclasses import dataclass

from raycomp.report.bootstrap import bootstrap_replicates, percentile_interval
from raycomp.report.predictions import load_predictions
from raycomp.report.run_record import RunRecord
from raycomp.report.uncertainty import (
    BINOMIAL,
    Interval,
    effective_examples,
    standard_error,
    wilson_interval,
)


@dataclass(frozen=True)
class ScoreUncertainty:
    """Standard error and 95% interval of a score.

    Attributes:
        error: Standard error.
        interval: Lower and upper bound.
    """

    error: float
    interval: Interval


def measure_uncertainty(
    run: RunRecord, method: str, budget: str, metric: str, value: float
) -> ScoreUncertainty | None:
    """Return the uncertainty of a validation score that comes from the random choice of the examples.

    For accuracy it is binomial. For another metric it is a bootstrap over the examples, which needs the
    outputs that the run saved.

    Args:
        run: Record of the run.
        method: Method of the deployed model, or `TEACHER`.
        budget: Budget of the deployed model, or `TEACHER`.
        metric: Metric of the score.
        value: The score.

    Returns:
        The uncertainty; None if the number of examples or the model's outputs are not known.
    """
    examples = run.examples("validation")
    if metric in BINOMIAL and examples:
        count = effective_examples(examples)
        return ScoreUncertainty(standard_error(value, count), wilson_interval(value, count))

    predictions = load_predictions(run.path, method, budget, metric, value)
    if predictions is None:
        return None
    replicates = bootstrap_replicates(metric, [predictions])
    return ScoreUncertainty(float(replicates.std()), percentile_interval(replicates))
