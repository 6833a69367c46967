"""The super-network before its training: start weights, with heads and neurons sorted by importance."""

from __future__ import annotations

from raycomp.data.batches import Batch, TrainPlan, collate
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.importance import measure_importance, reorder_by_importance
from raycomp.methods.context import RunContext
from raycomp.storage.revision import FIRST_REVISION
from raycomp.training.objectives import label_loss

IMPORTANCE_BATCHES = 32
"""Training batches that runs of revision 1 measure importance on."""

IMPORTANCE_ROWS = 1024
"""Selection rows that importance is measured on, at most."""


def start_network(context: RunContext) -> ElasticEncoder:
    """Return the super-network before training: the teacher or the pretrained network, reordered."""
    job = context.job
    model = context.teacher() if job.train.init == "teacher" else context.network()
    if not job.space.reorder:
        return model

    teacher = context.teacher().eval()
    importance = measure_importance(
        teacher,
        importance_batches(context),
        lambda out, batch: label_loss(out, batch.labels, batch.total),
    )
    reorder_by_importance(model, importance)
    return model


def find_start_problems(context: RunContext, name: str, *, needs_order: bool = False) -> list[str]:
    """Return a message per setting with which a super-network would not start as its method says.

    [train] and [space] belong to all super-networks of a job, and these settings are meant for YOCO-BERT.

    Args:
        context: The run's context.
        name: The method, whose super-network starts from the fine-tuned teacher.
        needs_order: Whether the method also sorts heads and neurons by importance.
    """
    job = context.job
    problems = []
    if job.train.init != "teacher":
        problems.append(
            f"The super-network of {name} starts from the fine-tuned teacher, but train.init is "
            f"{job.train.init!r}. Remove train.init, or run {name} in another job."
        )
    if needs_order and not job.space.reorder:
        problems.append(
            f"{name} sorts heads and neurons by importance before it trains them, but space.reorder is "
            f"false. Remove space.reorder, or run {name} in another job."
        )
    return problems


def count_importance_tokens(context: RunContext) -> int:
    """Return the tokens of the text that importance is measured on."""
    if not context.job.space.reorder:
        return 0
    return sum(batch.total_tokens for batch in importance_batches(context))


def importance_batches(context: RunContext) -> list[Batch]:
    """Return the labelled batches that the importance of heads and neurons is measured on.

    They are selection rows: the teacher has memorised the training rows, so its loss and the gradients of
    the loss are close to 0 there.
    """
    job = context.job
    split = "selection"
    num_rows = IMPORTANCE_ROWS
    if context.revision == FIRST_REVISION:
        split = "train"
        num_rows = IMPORTANCE_BATCHES * job.train.batch_size

    tokens = context.tokens(split)
    plan = TrainPlan(tokens.lengths, job.train.batch_size, job.run.seed)
    count = min(max(1, num_rows // job.train.batch_size), plan.steps_per_epoch)
    return [collate(tokens, plan.rows(i), context.pad_id) for i in range(count)]
