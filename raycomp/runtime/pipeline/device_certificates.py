"""Models of budgets for devices, measured as files before the choice is final.

A model whose file is over a limit makes its budget's predictions larger by the measured ratio. The search
then continues: its scores are in the evaluation cache, and the network that failed is over the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raycomp.config.budget import BUDGET_KINDS, SEVERAL, BudgetSettings
from raycomp.deployment.certificate import FAIL, MACHINE_QUANTITIES, NOT_CERTIFIED, PASS
from raycomp.deployment.cpu import UNKNOWN, is_same_device, same_cpu
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.device_table import DeviceTable
from raycomp.errors import UserError
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext
from raycomp.search.device_budgets import quantity_of
from raycomp.storage.files import read_json, write_json

MAX_TIGHTENINGS = 3
"""How often the search of a budget continues after a model that failed."""

SHIPPED_KEYS = ("machine", "files", "limits", "passing_files", "notes", "slowdown")
"""Keys of the certificate that the export of a model gets."""

Certify = Callable[[RunContext, Deployable], dict[str, Any]]
"""Function that measures a model as a file, and returns the content of its certificate."""

Compress = Callable[[RunContext], list[Deployable]]
"""Function that searches the budgets of a context's job, and returns their deployables."""


@dataclass(frozen=True)
class Measurement:
    """The measured limits of a model.

    Attributes:
        certificate: Content of its certificate.
        values: Measured value of each limit that this machine can judge, by kind; None where it was not
            measured. Times and memory are left out on another machine than the device.
        verdict: "PASS", "FAIL" or "NOT CERTIFIED".
        fallback: Why the file is in fp32 although its budget is for INT8; empty where it is not.
    """

    certificate: dict[str, Any]
    values: dict[str, float | None]
    verdict: str
    fallback: str = ""


def certify_budgets(
    context: RunContext, compress: Compress, certify: Certify, say: Callable[[str], None]
) -> list[Deployable]:
    """Compress for every budget; models for devices are measured, and searched again where they fail.

    Args:
        context: The run's context, as the method has it.
        compress: The method. It is called again with a job of the failed budgets only.
        certify: See `Certify`.
        say: Function that shows a line.
    """
    deployables = {entry.budget: entry for entry in compress(context)}
    order = list(deployables)
    # AdaBERT's models have settings in place of budgets, and no limit to be measured.
    open_budgets = [
        budget for budget in context.job.budget if budget.is_for_device and budget.name in deployables
    ]

    while open_budgets:
        failed = []
        for budget in open_budgets:
            deployable = deployables[budget.name]
            if deployable.build is None:
                # After a correction, no network of the space is predicted to meet the limits.
                if _read_corrections(context).get(budget.name) is not None:
                    deployables[budget.name] = _give_up(context, budget, deployable)
                continue
            measurement = _measure(context, budget, deployable, certify)
            if measurement.verdict == FAIL:
                if _tighten(context, budget, deployable, measurement, say):
                    failed.append(budget)
                else:
                    deployables[budget.name] = _give_up(context, budget, deployable)
            else:
                deployables[budget.name] = _with_measurement(context, budget, deployable, measurement)

        open_budgets = failed
        if failed:
            job = context.job.model_copy(update={"budget": failed})
            # A new context: its costs have the corrections.
            narrowed = RunContext(job, context.run_dir, method=context.method)
            deployables |= {entry.budget: entry for entry in compress(narrowed)}

    return [deployables[name] for name in order]


def _measure(
    context: RunContext, budget: BudgetSettings, deployable: Deployable, certify: Certify
) -> Measurement:
    """Return the measured limits of a model, and whether it meets them."""
    certificate = certify(context, deployable)
    table = context.device.tables[budget.name]
    limits = context.budget_costs.limits(budget)
    file = _find_file(certificate, table.conditions.runtime)
    values: dict[str, float | None] = {}
    is_device = is_same_device(certificate["machine"], table.machine, table.conditions.threads)

    for kind in limits:
        # The times of another machine say nothing about the device. Sizes are the same on both.
        if kind in MACHINE_QUANTITIES and not is_device:
            continue
        if kind in BUDGET_KINDS:
            values[kind] = float(certificate[kind])
        else:
            values[kind] = _read_value(file, quantity_of(budget, kind), certificate.get("slowdown", 1.0))

    # A limit that could not be measured must not pass.
    is_met = all(value is not None and value <= limits[kind] for kind, value in values.items())
    verdict = FAIL
    if is_met:
        verdict = PASS if len(values) == len(limits) else NOT_CERTIFIED
    return Measurement(certificate, values, verdict, _describe_fallback(certificate, table, file))


def _describe_fallback(certificate: dict[str, Any], table: DeviceTable, file: dict[str, Any]) -> str:
    """Return why a budget for INT8 has a file in fp32; empty where it does not."""
    if not table.conditions.runtime.endswith("int8") or file["precision"] == "int8":
        return ""
    reasons = " ".join(note for note in certificate["notes"] if "INT8" in note)
    return f"This is the file in fp32. {reasons}".rstrip()


def _find_file(certificate: dict[str, Any], runtime: str) -> dict[str, Any]:
    """Return the figures of the file that runs in a runtime; that in fp32 where INT8 was refused."""
    library = runtime.removesuffix("-int8")
    files = [entry for entry in certificate["files"] if entry["runtime"] == library]
    if not files:
        notes = " ".join(certificate["notes"]) or "torch cannot export it."
        raise UserError(
            f"The model {certificate['arch_id']} lacks a file for {runtime}: {notes} Choose another "
            "runtime for the budget."
        )

    # Where INT8 is refused, the file in fp32 is deployed, and it must meet the limit.
    precision = "int8" if runtime.endswith("int8") else "fp32"
    return next((entry for entry in files if entry["precision"] == precision), files[0])


def _read_value(file: dict[str, Any], quantity: str, slowdown: float) -> float | None:
    """Return a measured quantity; a time as it is at the speed of the profile."""
    if quantity in ("memory_mb", "size_mb"):
        return None if file[quantity] is None else float(file[quantity])
    name = "p50_ms" if quantity == "latency_ms" else quantity
    return float(file["latencies"][0][name]) / slowdown


def _tighten(
    context: RunContext,
    budget: BudgetSettings,
    deployable: Deployable,
    measurement: Measurement,
    say: Callable[[str], None],
) -> bool:
    """Record that a model is over its limits; return whether the search may continue.

    The recorded factors make the predictions of its budget as large as the measured values.
    """
    entries = _read_corrections(context)
    entry = entries.get(budget.name, {"factors": {}, "attempts": 0, "nearest": None})
    limits = context.budget_costs.limits(budget)
    arch = Architecture.from_json(str(deployable.arch))

    for kind, value in measurement.values.items():
        if kind not in BUDGET_KINDS and value is not None and value > limits[kind]:
            quantity = quantity_of(budget, kind)
            # Larger than an earlier factor: with that one, the prediction was within the limit.
            entry["factors"][quantity] = value / context.budget_costs.predict(budget, kind, arch)

    # After the last attempt, the user gets the model that came closest, not the last one.
    excess = _excess(measurement.values, limits)
    nearest = entry["nearest"]
    if nearest is None or excess < nearest["excess"]:
        values = dict(measurement.values)
        entry["nearest"] = {
            "arch": deployable.arch,
            "excess": excess,
            "values": values,
            "fallback": measurement.fallback,
        }
    entry["attempts"] += 1
    write_json(context.files.device_corrections, {**entries, budget.name: entry})

    can_continue = entry["attempts"] <= MAX_TIGHTENINGS
    if can_continue:
        fallback = f" {measurement.fallback}" if measurement.fallback else ""
        say(
            f"Budget {budget.name}: the measured file has {_list_values(measurement.values)}, over the "
            f"limit of {_list_values(limits)}.{fallback} The search continues with tighter predictions "
            f"(attempt {entry['attempts']} of {MAX_TIGHTENINGS})."
        )
        # Without its outcome, a budget is searched again; its scores stay in the evaluation cache.
        for outcome in context.files.search_outcomes():
            if outcome.name.startswith(f"{budget.name}."):
                outcome.unlink()
    return can_continue


def _read_corrections(context: RunContext) -> dict[str, Any]:
    """Return what is recorded of failed models, by budget; empty before the first of them."""
    path = context.files.device_corrections
    return read_json(path) if path.exists() else {}


def _give_up(context: RunContext, budget: BudgetSettings, deployable: Deployable) -> Deployable:
    """Return the deployable without a model that names the nearest model."""
    entry = _read_corrections(context)[budget.name]
    nearest = entry["nearest"]
    # A run that is resumed after the last attempt counts the same model again.
    attempts = min(entry["attempts"], MAX_TIGHTENINGS + 1)
    limits = context.budget_costs.limits(budget)
    # A record of an earlier version lacks this key.
    fallback = f" {nearest['fallback']}" if nearest.get("fallback") else ""
    measurements = "1 measurement" if attempts == 1 else f"{attempts} measurements"
    reason = (
        f"Budget {budget.name}: no model met {_list_values(limits)} in {measurements}. The nearest one "
        f"has {_list_values(nearest['values'])}: {nearest['arch']}."
        f"{fallback} Raise the limit, or profile the device again while no other program runs."
    )
    return replace(deployable, build=None, arch=None, arch_id=None, verdict=FAIL, reason=reason)


def _with_measurement(
    context: RunContext, budget: BudgetSettings, deployable: Deployable, measurement: Measurement
) -> Deployable:
    """Return the deployable with its certificate, and its cost as it was measured."""
    measured = measurement.certificate
    certificate = {key: measured[key] for key in SHIPPED_KEYS if key in measured}
    limits = context.budget_costs.limits(budget)
    values = measurement.values
    if measurement.verdict == NOT_CERTIFIED:
        arch = Architecture.from_json(str(deployable.arch))
        predicted = {kind: context.budget_costs.cost_of_kind(budget, kind, arch) for kind in limits}
        # A file can be larger than predicted, for example where INT8 was refused.
        values = {**predicted, **values}
        note = _describe_prediction(context, budget, measurement)
        certificate["notes"] = [*certificate["notes"], note]

    cost = _excess(values, limits) if budget.kind == SEVERAL else float(values[budget.kind] or 0.0)
    if measurement.fallback:
        certificate["fallback"] = measurement.fallback

    return replace(
        deployable,
        cost=cost,
        verdict=measurement.verdict,
        certificate={**deployable.certificate, **certificate, "verdict": measurement.verdict},
        measured_files=context.layout.devices.certified / f"{context.method}-{budget.name}",
    )


def _describe_prediction(context: RunContext, budget: BudgetSettings, measurement: Measurement) -> str:
    """Return which limits of a model are predicted, from which profile, and why."""
    table = context.device.tables[budget.name]
    machine = measurement.certificate["machine"]
    model = table.machine.get("model", UNKNOWN)
    cpu = "a CPU that its system does not name" if model == UNKNOWN else model
    kinds = [kind for kind in budget.limits if kind not in measurement.values]

    reason = ""
    if same_cpu(machine, table.machine):
        threads = table.conditions.threads
        reason = f" The machine of the run has {machine['cpus']} CPUs for {threads} threads."
    return (
        f"{' and '.join(kinds)} {'is' if len(kinds) == 1 else 'are'} predicted from the profile of "
        f"{cpu}.{reason} The figures of the files are of the machine of the run. Certify the model on "
        "the device with `raycomp export`."
    )


def _excess(values: dict[str, float | None], limits: dict[str, float]) -> float:
    """Return the largest measured share of a limit; a value that was not measured is over its limit."""
    shares = [2.0 if value is None else value / limits[kind] for kind, value in values.items()]
    return max(shares)


def _list_values(values: Any) -> str:
    parts = [
        f"{kind} {'not measured' if value is None else f'{value:,.4g}'}" for kind, value in values.items()
    ]
    return ", ".join(parts)


def list_verdicts(deployables: Sequence[Deployable]) -> list[str]:
    """Return the verdict of each model for a device, as lines for the user."""
    return [
        f"Budget {entry.budget}: {entry.verdict}, {entry.kind} {entry.cost:,.4g} of {entry.limit:,.4g}. "
        f"{entry.certificate.get('fallback', '')}".rstrip()
        for entry in deployables
        if entry.verdict is not None and entry.cost is not None
    ]
