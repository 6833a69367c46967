"""Exports of a deployed model in several formats, each measured, with a certificate."""

from __future__ import annotations

import hashlib
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from raycomp.config.references import is_reference
from raycomp.data.batches import Batch, collate
from raycomp.data.metrics import choose_safe_metric
from raycomp.deployment.certificate import (
    DeploymentLimit,
    Latency,
    build_certificate,
    render_card_section,
)
from raycomp.deployment.cpu import describe_cpu, describe_machine, same_cpu
from raycomp.deployment.format_settings import LIBRARY_FORMATS, FormatSettings, check_lengths
from raycomp.deployment.formats import FormatResult, write_formats
from raycomp.deployment.measured_files import ModelData, choose_limited
from raycomp.deployment.runtimes import Calibration, TokenForward
from raycomp.encoder.device_table import Conditions
from raycomp.encoder.export import add_to_card
from raycomp.encoder.plain import make_plain
from raycomp.errors import shown
from raycomp.methods.base import Deployable, Forward
from raycomp.methods.context import RunContext
from raycomp.methods.scoring import score_forward
from raycomp.runtime.pipeline.budget_limits import BudgetLimits, find_limits
from raycomp.runtime.pipeline.deploy import export_deployable
from raycomp.runtime.pipeline.plain_form import explain_no_plain_form, with_model
from raycomp.runtime.pipeline.user_units import in_user_units, standardised
from raycomp.storage.files import read_json, write_error, write_json

CERTIFICATE_FILE = "certificate.json"
TEACHER = "teacher"
"""Name under which the teacher is exported, next to the budgets."""

CALIBRATION_ROWS = 128
CALIBRATION_BATCH = 16


def export_formats(
    context: RunContext,
    deployable: Deployable,
    out: Path,
    figures: Mapping[str, Any],
    settings: FormatSettings,
) -> dict[str, Any]:
    """Write a model in several formats, measure each file, and return the certificate.

    The folder is written next to `out` and then moved there: it is complete, or it does not exist.

    Args:
        context: The run's context, as the model's method has it.
        deployable: A deployable with a model.
        out: Directory to write; it does not exist, or it is empty.
        figures: Further figures of the model card, such as the validation score.
        settings: Formats and conditions of the measurement.

    Raises:
        UserError: A conversion or a measurement failed, the folder cannot be written, or the only
            metric of the run is a function that may not be imported.
    """
    metric, metric_note = _choose_metric(context, settings)
    context = context.cut if deployable.is_cut else context
    deployable = in_user_units(context, deployable)
    assert deployable.build is not None  # nosec B101 - the caller checks that there is a model
    network, reference = deployable.build()
    network = network.eval()
    # The plain form has the same weights; all other formats are made from raycomp's own network.
    loaded, note = _choose_form(context, network, settings)
    data = _model_data(context, network, metric)
    check_lengths(settings, data.max_positions)
    limits = find_limits(context, deployable, settings)
    settings = limits.applied_to(settings)

    hidden = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    try:
        changed = with_model(deployable, loaded, reference)
        proof = export_deployable(context, changed, hidden, dict(figures))
        result = write_formats(network, loaded, hidden, settings, data)
        own_figures = _model_figures(context, changed, proof, {**figures, "selection_metric": metric})
        certificate = _certify(own_figures, limits, [*note, *metric_note], settings, result)
        _finish_folder(hidden, out, certificate)
    except OSError as error:
        raise write_error(out, error) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)

    return certificate


def _certify(
    figures: Mapping[str, Any],
    limits: BudgetLimits,
    notes: Sequence[str],
    settings: FormatSettings,
    result: FormatResult,
) -> dict[str, Any]:
    """Return the certificate of files.

    Args:
        figures: Figures of the model.
        limits: Limits of its budget.
        notes: Notes from before the measurement.
        settings: Formats and conditions of the measurement.
        result: What was written and measured.
    """
    return build_certificate(
        {**figures, "slowdown": result.slowdown},
        {**describe_machine(settings.num_threads()), "pinned_cpus": result.pinned_cpus},
        [*limits.others, *_current_limits(settings, result.slowdown)],
        result.files,
        [*notes, *result.notes, *_describe_slowdown(settings, result.slowdown), *limits.notes],
        limits.not_judged,
        _find_limited(result, limits.runtime),
    )


def _find_limited(result: FormatResult, runtime: str) -> str:
    """Return the file that must meet the limits of a budget; empty where one of the files must."""
    path = choose_limited([Path(entry.file) for entry in result.files], runtime)
    return "" if path is None else path.as_posix()


def _current_limits(settings: FormatSettings, slowdown: float) -> list[DeploymentLimit]:
    """Return the limits on times and those of the command line; times grow with the slowdown."""
    return [
        replace(limit, limit=limit.limit * slowdown) if limit.quantity in Latency.QUANTITIES else limit
        for limit in settings.limits
    ]


def _describe_slowdown(settings: FormatSettings, slowdown: float) -> list[str]:
    """Return a sentence on the reference whose time decided on limits; none without a reference."""
    if settings.reference is None:
        return []
    expected = settings.reference.expected_ms
    return [
        f"Limits on time are shares of the full network's time, which was measured in turns with the "
        f"files: {expected * slowdown:.3g} ms, and {expected:.3g} ms in the profile."
    ]


def _choose_metric(context: RunContext, settings: FormatSettings) -> tuple[str, tuple[str, ...]]:
    """Return the metric that scores the files, and a note where it is not that of the run.

    Raises:
        UserError: The only metric of the run is a function that may not be imported.
    """
    primary = context.primary
    if settings.allow_code:
        return primary, ()

    metric = choose_safe_metric(primary, context.metrics)
    if metric == primary:
        return metric, ()
    return metric, (
        f"The files were scored by {metric}. The metric of the run, {shown(primary)}, is a function that "
        "is imported only with --allow-code.",
    )


def _finish_folder(hidden: Path, out: Path, certificate: dict[str, Any]) -> None:
    """Write the certificate into a folder, and move the folder to its place."""
    write_json(hidden / CERTIFICATE_FILE, certificate)
    add_to_card(hidden, render_card_section(certificate))

    # An empty directory of the user's is replaced.
    if out.exists():
        out.rmdir()
    hidden.replace(out)


def teacher_deployable(context: RunContext) -> Deployable:
    """Return the teacher as a deployable, to be compared with the compressed models."""
    largest = context.space.largest()
    scores = read_json(context.layout.teacher_score)

    def build() -> tuple[PreTrainedModel, Forward]:
        teacher = context.teacher().eval()

        def forward(batch: Batch) -> Tensor:
            return teacher(batch).logits

        return teacher.extract(largest), forward

    return Deployable(
        budget=TEACHER,
        kind="none",
        limit=float("inf"),
        build=build,
        arch=largest.to_json(),
        arch_id=largest.id,
        flops=float(context.costs.cost("flops", largest)),
        selection=float(scores["selection"][context.primary]),
        description="The fine-tuned teacher of the run, uncompressed.",
    )


def export_teacher(context: RunContext, conditions: Conditions) -> Path:
    """Return a folder with the teacher's files for these conditions, in the library of their runtime.

    A folder that was written on this kind of CPU is used again. INT8 can be refused at one number of
    threads and not at another, so the conditions have a folder each; both precisions share it.
    """
    folder = context.layout.devices.certified / _teacher_folder(conditions)
    if read_certificate(folder) is None:
        shutil.rmtree(folder, ignore_errors=True)
        settings = FormatSettings(
            LIBRARY_FORMATS[conditions.library],
            batches=(conditions.batch,),
            mixed_lengths=conditions.lengths,
            longest=conditions.longest or 0,
            threads=conditions.threads,
            # A run may import its own metric.
            allow_code=True,
        )
        export_formats(context, teacher_deployable(context), folder, {}, settings)
    return folder


def _teacher_folder(conditions: Conditions) -> str:
    """Return the name of the teacher's folder: a file of lengths has too many of them for a name."""
    lengths = hashlib.sha256(repr(conditions.lengths).encode()).hexdigest()[:8]
    library = "" if conditions.library == "onnxruntime" else f"-{conditions.library}"
    return f"{TEACHER}{library}-threads{conditions.threads}-batch{conditions.batch}-{lengths}"


def read_certificate(folder: Path) -> dict[str, Any] | None:
    """Return the certificate of a complete export that was measured on this kind of CPU, or None."""
    path = folder / CERTIFICATE_FILE
    if not path.exists():
        return None
    certificate = read_json(path)
    if not same_cpu(certificate.get("machine", {}), describe_cpu()):
        return None
    return certificate


def _choose_form(
    context: RunContext, network: PreTrainedModel, settings: FormatSettings
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Return the model of the folder, and a note where the asked plain form does not exist."""
    if "plain" not in settings.formats and not context.job.space.plain:
        return network, ()
    reason = explain_no_plain_form(network)
    if reason is None:
        return make_plain(network), ()
    return network, (
        f"The plain form was not written: {reason}. The folder loads with trust_remote_code=True.",
    )


def _model_data(context: RunContext, network: PreTrainedModel, metric: str) -> ModelData:
    """Return what the formats need to know about the task; files are scored by one metric."""
    max_positions = int(network.config.max_positions)

    def score(forward: TokenForward) -> float:
        def run(batch: Batch) -> Tensor:
            return forward(batch.input_ids, batch.attention_mask, batch.token_type_ids)

        score = score_forward(context, standardised(context, run), "selection", metrics=(metric,))
        return score.values[metric]

    return ModelData(
        score=score,
        calibration=_calibration(context),
        vocab_size=int(network.config.vocab_size),
        max_positions=max_positions,
        length=min(context.job.task.max_length, max_positions),
        is_own_metric=is_reference(metric),
    )


def _calibration(context: RunContext) -> Calibration:
    """Return batches of training rows of similar length, drawn with the seed of the run."""
    tokens = context.tokens("train")
    # Activations of the selection rows must not influence the file that is scored on them.
    rng = np.random.default_rng(context.job.run.seed)
    rows = rng.permutation(len(tokens))[:CALIBRATION_ROWS]
    rows = rows[np.argsort(tokens.lengths[rows], kind="stable")]
    batches = []
    for start in range(0, len(rows), CALIBRATION_BATCH):
        batch = collate(tokens, rows[start : start + CALIBRATION_BATCH], context.pad_id)
        batches.append((batch.input_ids, batch.attention_mask.long(), batch.token_type_ids))
    return batches


def _model_figures(
    context: RunContext, deployable: Deployable, proof: Mapping[str, Any], figures: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the figures of the whole model in its certificate."""
    assert deployable.build is not None  # nosec B101 - it was built before
    model, _ = deployable.build()
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    # Magnitude pruning keeps the shapes: its parameters are those that are not 0.
    if deployable.counts_nonzero:
        sizes = {name: int(p.count_nonzero()) for name, p in model.named_parameters()}
    encoder_params = sum(size for name, size in sizes.items() if deployable.encoder_prefix in name)

    return {
        "run": context.run_dir.name,
        "method": context.method if deployable.budget != TEACHER else TEACHER,
        "budget": deployable.budget,
        "arch": deployable.arch,
        "arch_id": deployable.arch_id,
        "params": int(proof["params"]),
        "encoder_params": int(encoder_params),
        "flops": deployable.flops,
        "flops_length": context.flops_length,
        "metric": context.primary,
        **{key: value for key, value in figures.items() if isinstance(value, int | float | str)},
        **deployable.certificate,
        "parity": float(proof["max_logit_difference"]),
        "made": time.time(),
    }
