"""The cost of work outside of trainings and scores, such as measuring the importance of heads."""

from __future__ import annotations

from raycomp.methods.base import Run
from raycomp.storage.rows import CostRow


def record_preparation(
    run: Run, part: str, *, flops: float, seconds: float, tokens: int = 0, budget: str | None = None
) -> None:
    """Write the cost of work that is neither a training nor the scoring of a network.

    Args:
        run: The method's handle.
        part: Name of the work.
        flops: Its FLOPs.
        seconds: Its wall time. An interrupted start is not counted.
        tokens: Tokens of text that a network read.
        budget: Budget that it was done for; None where all budgets share it.
    """
    context = run.context
    row = CostRow(
        run=context.run_dir.name,
        method=context.method,
        work="preparation",
        part=part,
        budget=budget,
        tokens=tokens,
        flops=flops,
        passes=flops / context.epoch_flops(),
        seconds=seconds,
    )
    name = "-".join(text for text in (context.method, part, budget) if text)
    run.record_cost(name, row.to_row())
