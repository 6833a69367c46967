"""Preflight of word tables: whether the job's methods search them, and its tokenizer can be cut."""

from __future__ import annotations

from raycomp.encoder.vocabulary import explain_not_cuttable
from raycomp.methods.context import RunContext
from raycomp.methods.elastic_method import ElasticMethod
from raycomp.methods.registry import load_method_class


def find_table_problems(context: RunContext) -> list[str]:
    """Return why the choices of section [embeddings] cannot be searched; empty where they can."""
    job = context.job
    if not job.embeddings.is_searched:
        return []

    problems = []
    if not any(issubclass(load_method_class(name), ElasticMethod) for name in job.run.methods):
        problems.append(
            f"Section [embeddings] has choices, but {', '.join(job.run.methods)} does not search a "
            "super-network. Leave the section out, or add yoco to run.methods."
        )
    if "task" in job.embeddings.vocabulary:
        reason = explain_not_cuttable(context.tokenizer)
        if reason is not None:
            problems.append(
                f'embeddings.vocabulary has "task", but the tokenizer of {job.model.name} cannot be cut: '
                f'{reason}. Leave "task" out.'
            )
    return problems
