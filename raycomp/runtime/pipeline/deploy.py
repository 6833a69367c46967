"""Deployment, the same for all methods: export, load back, check logits and budget, score, and time."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from raycomp.config.budget import SEVERAL
from raycomp.data.batches import collate
from raycomp.deployment.certificate import render_card_section
from raycomp.deployment.cpu import describe_machine
from raycomp.deployment.latency import measure_latencies_ms
from raycomp.encoder.export import (
    add_to_card,
    export_model,
    verify_export,
    verify_tokenizer,
    write_card,
)
from raycomp.encoder.interface import logits_of
from raycomp.errors import UserError
from raycomp.methods.base import Deployable, Forward, Healing, ProgressUpdate
from raycomp.methods.context import RunContext
from raycomp.methods.scoring import score_validation
from raycomp.report.shortfall import describe_shortfall
from raycomp.runtime.pipeline.measured_models import add_measured_files, find_cost
from raycomp.runtime.pipeline.plain_form import in_plain_form
from raycomp.runtime.pipeline.score_warning import add_score_warning
from raycomp.runtime.pipeline.user_units import in_user_units, standardised
from raycomp.search.search_loop import budget_settings
from raycomp.storage.files import write_json, write_text
from raycomp.storage.rows import DeploymentRow
from raycomp.storage.tables import write_rows

MAX_LOGIT_DIFFERENCE = 1e-5
"""Largest difference of a logit between the trained network and the model that was loaded back.

Outputs of a regression are compared in units of the targets' deviation.
"""

VERIFIED_TEXTS = 32
"""Training rows on which the exported tokenizer is compared with the run's."""

REPORT_BUG = "This is a bug in raycomp; please report it."


def deploy_all(context: RunContext, deployables: list[Deployable], update: ProgressUpdate) -> float:
    """Export, verify, score and time every deployable of a method; write its rows of `deployments`.

    The validation split is read here, once for each model, after every choice is made.

    Args:
        context: The run's context, as the method has it.
        deployables: What the method returned.
        update: Progress function.

    Returns:
        The median latency of the teacher in milliseconds, measured next to the deployed models.

    Raises:
        UserError: An exported model differs from its reference, or counts more than its budget allows.
    """
    rows: list[DeploymentRow] = []
    networks: list[PreTrainedModel] = [context.teacher().extract(context.space.largest())]
    for i, deployable in enumerate(deployables):
        row = _start_row(context, deployable)
        deployable = in_plain_form(context, deployable)
        if deployable.build is not None:
            row, loaded = _deploy(context, deployable, row)
            networks.append(loaded)
        rows.append(row)
        update(i + 1, len(deployables), {})

    latencies = measure_latencies_ms(
        [_timed_forward(network) for network in networks],
        # A random token must be in every vocabulary.
        min(int(network.config.vocab_size) for network in networks),
        length=context.job.task.max_length,
    )
    deployed_latencies = iter(latencies[1:])
    finished = []
    for row, deployable in zip(rows, deployables, strict=True):
        if row.feasible:
            row = replace(row, latency_ms=next(deployed_latencies))
            row = _write_certificate(context, row, deployable)
        finished.append(row.to_row())
    if finished:
        write_rows(context.run_dir, "deployments", finished, context.method)
    return latencies[0]


def _timed_forward(network: PreTrainedModel) -> Callable[[Any, Any], Any]:
    return lambda ids, mask: network(input_ids=ids, attention_mask=mask)


def _start_row(context: RunContext, deployable: Deployable) -> DeploymentRow:
    return DeploymentRow(
        run=context.run_dir.name,
        method=context.method,
        budget=deployable.budget,
        kind=deployable.kind,
        limit=deployable.limit,
        feasible=deployable.build is not None,
        searcher=deployable.searcher,
        seed=deployable.seed,
        metric=context.primary,
        evaluations=deployable.evaluations,
        seconds=deployable.seconds,
        verdict=deployable.verdict,
        teacher_validation=context.teacher_validation(),
        reason=deployable.reason or None,
    )


def _deploy(
    context: RunContext, deployable: Deployable, row: DeploymentRow
) -> tuple[DeploymentRow, PreTrainedModel]:
    """Export one model, and return its row and the model that was loaded back."""
    out = context.layout.export(context.method, deployable.budget)
    context = context.cut if deployable.is_cut else context
    proof = export_deployable(context, deployable, out)
    add_measured_files(deployable, out)
    loaded = AutoModelForSequenceClassification.from_pretrained(  # nosec B615  # raycomp's own export
        str(out), trust_remote_code=True, local_files_only=True
    ).eval()

    counts = _count(loaded, deployable)
    cost = find_cost(context, deployable, counts)
    _check_counts(context, deployable, counts)

    forward = standardised(context, lambda batch: logits_of(loaded, batch))
    validation = score_validation(context, forward, out.name)
    row = replace(
        row,
        **_healing_columns(deployable.healing),
        arch_id=deployable.arch_id,
        arch=deployable.arch,
        params=int(counts["params"]),
        full_params=float(context.costs.cost("params", context.space.largest())),
        encoder_params=int(counts["encoder_params"]),
        vocab_size=int(loaded.config.vocab_size),
        word_rank=getattr(loaded.config, "word_rank", None),
        flops=deployable.flops,
        cost=float(cost),
        selection=deployable.selection,
        validation=validation,
        parity=proof["max_logit_difference"],
        export=str(out.relative_to(context.run_dir)),
    )
    row = add_score_warning(context, row, out.name)
    figures = {
        "validation": validation,
        "teacher_validation": row.teacher_validation,
        "warning": describe_shortfall(row.to_row(), context.job.model_dump(mode="json")),
    }
    write_card(out, proof["card"] | figures)
    return row, loaded


def _check_counts(context: RunContext, deployable: Deployable, counts: Mapping[str, float]) -> None:
    """Check each limit on parameters or FLOPs on the model that was loaded back.

    Raises:
        UserError: The model has more than a limit allows.
    """
    limits = {deployable.kind: deployable.limit}
    if deployable.kind == SEVERAL:
        limits = context.budget_costs.limits(budget_settings(context.job, deployable.budget))
    for kind, limit in limits.items():
        if kind in counts and counts[kind] > limit * (1 + deployable.tolerance):
            raise UserError(
                f"Budget {deployable.budget}: the exported model has {counts[kind]:,.0f} {kind}, but the "
                f"limit is {limit:,.0f}. {REPORT_BUG}"
            )


def _healing_columns(healing: Healing | None) -> dict[str, Any]:
    """Return the columns of table `deployments` on the healing of a model."""
    if healing is None:
        return {}
    return {
        "inherited": healing.inherited,
        "healed": healing.healed,
        "heal_networks": healing.networks,
        "heal_steps": healing.steps,
        "heal_tokens": healing.tokens,
        "heal_seconds": healing.seconds,
    }


def _count(model: PreTrainedModel, deployable: Deployable) -> dict[str, float]:
    """Return the cost of a loaded model per kind; FLOPs are computed, the rest is counted."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    if deployable.counts_nonzero:
        sizes = {name: int(p.count_nonzero()) for name, p in model.named_parameters()}

    prefix = deployable.encoder_prefix
    return {
        "params": float(sum(sizes.values())),
        "encoder_params": float(sum(size for name, size in sizes.items() if prefix in name)),
        "flops": deployable.flops,
    }


def export_deployable(
    context: RunContext,
    deployable: Deployable,
    out: Path,
    figures: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Build a model, write its directory, load it back, and compare the logits with its reference.

    Args:
        context: The run's context, as the method has it.
        deployable: A deployable with a model.
        out: Directory to write.
        figures: Further figures of the model card.

    Returns:
        `params`, counted on the loaded model, `max_logit_difference`, and the model card's figures as
        `card`.

    Raises:
        UserError: The loaded model's logits differ from the reference's by more than
            `MAX_LOGIT_DIFFERENCE`, or its tokenizer gives other tokens.
    """
    context = context.cut if deployable.is_cut else context
    deployable = in_user_units(context, deployable)
    assert deployable.build is not None  # nosec B101 - the caller checks that there is a model
    model, reference = deployable.build()
    card = {
        "method": deployable.description,
        "base_model": context.job.model.name,
        "task": context.task.name,
        "metric": context.primary,
        "arch": deployable.arch,
        **{k: int(v) if k != "flops" else v for k, v in _count(model, deployable).items()},
        "length": context.flops_length,
        "run": context.run_dir.name,
        "budget": deployable.budget,
        "selection": deployable.selection,
        **_healing_columns(deployable.healing),
        **(figures or {}),
    }
    card = export_model(model, context.tokenizer, out, context.task.label_names, card)
    verify_tokenizer(out, context.tokenizer, context.sample_texts(VERIFIED_TEXTS))
    for name, text in deployable.files.items():
        write_text(out / name, text)
    proof = _check_parity(context, model, reference, out)
    # The loaded model has the same weights, zeros included.
    if deployable.counts_nonzero:
        proof["params"] = int(_count(model, deployable)["params"])
    return {**proof, "card": card}


def _check_parity(
    context: RunContext, model: PreTrainedModel, reference: Forward, out: Path
) -> dict[str, Any]:
    """Compare reference, static model and loaded model on the first rows of the selection split."""
    tokens = context.tokens("selection")
    scaling = context.target_scaling
    batch = collate(tokens, np.arange(min(32, len(tokens))), context.pad_id)
    with torch.inference_mode():
        expected = reference(batch)
        actual = logits_of(model.eval(), batch)

    proof = verify_export(out, model, batch)
    difference = max(float(proof["max_logit_difference"]), float((expected - actual).abs().max()))

    difference /= scaling.deviation
    # Numbers of fp32 near the mean are this far apart.
    rounding = torch.finfo(torch.float32).eps * abs(scaling.mean) / scaling.deviation
    allowed = MAX_LOGIT_DIFFERENCE + 2 * rounding
    if difference > allowed:
        raise UserError(
            f"{out}: the exported model's logits differ from the trained network's by {difference:.2g} "
            f"(allowed: {allowed:.2g}). {REPORT_BUG}"
        )
    return {**proof, "max_logit_difference": difference}


def _write_certificate(context: RunContext, row: DeploymentRow, deployable: Deployable) -> DeploymentRow:
    """Write a deployment's figures into its export, or remove the export where the job keeps none."""
    if context.job.export.enabled:
        machine = describe_machine(torch.get_num_threads())
        # A measured model was measured with the threads of its budget.
        figures = {**row.to_row(), "machine": machine, **deployable.certificate, "made": time.time()}
        write_json(context.layout.certificate(context.method, deployable.budget), figures)
        if deployable.certificate.get("files"):
            folder = context.layout.export(context.method, deployable.budget)
            add_to_card(folder, render_card_section(deployable.certificate))
        return row

    folder = context.layout.export(context.method, deployable.budget)
    shutil.rmtree(folder)
    # Another method's exports may be next to it.
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
    return replace(row, export=None)
