"""Files of models for devices, measured in the runtime and under the conditions of their budget."""

from __future__ import annotations

import shutil
from typing import Any

from raycomp.config.budget import BudgetSettings
from raycomp.deployment.cpu import describe_machine, is_same_device
from raycomp.deployment.format_settings import RUNTIME_FILES, FormatSettings, TimedReference
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline.export_formats import export_formats, export_teacher, read_certificate
from raycomp.search.device_budgets import quantity_of
from raycomp.search.search_loop import budget_settings

FORMATS = {
    "onnxruntime": ("onnx",),
    "onnxruntime-int8": ("onnx", "int8"),
    "openvino": ("openvino",),
    "openvino-int8": ("openvino", "openvino-int8"),
    "torch": ("transformers",),
}
"""Formats that a runtime needs. The INT8 file needs the one in fp32 as its reference."""


def certify_file(context: RunContext, deployable: Deployable) -> dict[str, Any]:
    """Write the files of a model in its budget's runtime, measure them, and return the certificate.

    A model that was measured on this kind of CPU before an interruption is not measured again.
    """
    budget = budget_settings(context.job, deployable.budget)
    folder = context.layout.devices.certified / f"{context.method}-{budget.name}"
    model = (deployable.arch_id, deployable.certificate.get("weights_id"))

    # A run that was interrupted between two budgets.
    earlier = read_certificate(folder)
    if earlier is not None and (earlier.get("arch_id"), earlier.get("weights_id")) == model:
        return earlier

    shutil.rmtree(folder, ignore_errors=True)
    return export_formats(context, deployable, folder, {}, _format_settings(context, budget))


def _format_settings(context: RunContext, budget: BudgetSettings) -> FormatSettings:
    conditions = context.device.tables[budget.name].conditions
    return FormatSettings(
        FORMATS[conditions.runtime],
        reference=_find_reference(context, budget),
        batches=(conditions.batch,),
        mixed_lengths=conditions.lengths,
        longest=conditions.longest or 0,
        threads=conditions.threads,
        # A run may import its own metric.
        allow_code=True,
        runtime=conditions.runtime,
    )


def _find_reference(context: RunContext, budget: BudgetSettings) -> TimedReference | None:
    """Return the teacher's file where a limit on time is a share of the full network's time.

    The speed of a machine differs between the profile and the certificate; the share does not. None for
    torch, and where the teacher's INT8 file was refused: the time of the profile then counts.
    """
    conditions = context.device.tables[budget.name].conditions
    if not isinstance(budget.latency_ms, str) or conditions.runtime not in RUNTIME_FILES:
        return None
    device = context.device.tables[budget.name].machine
    if not is_same_device(describe_machine(conditions.threads), device, conditions.threads):
        return None
    path = export_teacher(context, conditions) / RUNTIME_FILES[conditions.runtime]
    if not path.exists():
        return None
    expected = context.budget_costs.predict(budget, "latency_ms", context.space.largest())
    return TimedReference(path, quantity_of(budget, "latency_ms"), expected)
