"""Which limits of a model's budget the files of an export are judged by, and under which conditions.

A time or a memory is comparable with a limit only on the budget's device, in its runtime, and at its
batch, lengths and threads. Elsewhere the limit is named as not judged, and the model does not pass.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from raycomp.config.budget import DEVICE_KINDS, BudgetSettings
from raycomp.deployment.certificate import MACHINE_QUANTITIES, MODEL_QUANTITIES, DeploymentLimit, Latency
from raycomp.deployment.cpu import UNKNOWN, describe_cpu, is_same_device, same_cpu
from raycomp.deployment.format_settings import FORMAT_OF_RUNTIME, FormatSettings
from raycomp.encoder.device_table import Conditions, DeviceTable
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext
from raycomp.search.device_budgets import quantity_of


@dataclass(frozen=True)
class BudgetLimits:
    """The limits of one budget.

    Attributes:
        judged: Limits that the measurement can decide.
        not_judged: The other ones.
        notes: Why they are not judged, and how to judge them.
        runtime: Runtime whose file must meet the limits; empty where one of the files must.
    """

    judged: tuple[DeploymentLimit, ...] = ()
    not_judged: tuple[DeploymentLimit, ...] = ()
    notes: tuple[str, ...] = ()
    runtime: str = ""

    @property
    def times(self) -> tuple[DeploymentLimit, ...]:
        """The judged limits on times: while they are not met, the files are measured again."""
        return tuple(limit for limit in self.judged if limit.quantity in Latency.QUANTITIES)

    @property
    def others(self) -> tuple[DeploymentLimit, ...]:
        """The judged limits that are not on times."""
        return tuple(limit for limit in self.judged if limit.quantity not in Latency.QUANTITIES)

    def applied_to(self, settings: FormatSettings) -> FormatSettings:
        """Return settings under which files that miss the limits on times are measured again."""
        limits = (*self.times, *settings.limits)
        return replace(settings, limits=limits, runtime=self.runtime or settings.runtime)


def find_limits(context: RunContext, deployable: Deployable, settings: FormatSettings) -> BudgetLimits:
    """Return the limits of a model's budget. AdaBERT's settings are not limits.

    Args:
        context: The run's context.
        deployable: The model.
        settings: Formats and conditions of the measurement.
    """
    if deployable.kind in MODEL_QUANTITIES:
        limit = deployable.limit * (1 + deployable.tolerance)
        return BudgetLimits((DeploymentLimit(deployable.kind, limit),))

    for budget in context.job.budget:
        if (budget.name, budget.kind) == (deployable.budget, deployable.kind):
            return _split_limits(context, budget, settings)
    return BudgetLimits()


def _split_limits(context: RunContext, budget: BudgetSettings, settings: FormatSettings) -> BudgetLimits:
    values = context.budget_costs.limits(budget)
    limits = {kind: DeploymentLimit(quantity_of(budget, kind), value) for kind, value in values.items()}
    if not budget.is_for_device:
        return BudgetLimits(tuple(limits.values()))

    # Without the file, none of the measured limits can be judged.
    problem = _explain_missing_file(budget, settings)
    excluded: Collection[str] = DEVICE_KINDS
    if not problem:
        problem = _explain_conditions(context, budget, settings)
        excluded = MACHINE_QUANTITIES if problem else ()

    judged = tuple(limit for kind, limit in limits.items() if kind not in excluded)
    not_judged = tuple(limit for kind, limit in limits.items() if kind in excluded)

    notes = []
    if not_judged:
        names = ", ".join(f"{limit.quantity} <= {limit.limit:,.4g}" for limit in not_judged)
        notes.append(f"Not judged of budget {budget.name}: {names}. {problem}")
    elif isinstance(budget.latency_ms, str) and settings.reference is None:
        limit = limits["latency_ms"]
        notes.append(
            f"{limit.quantity} <= {limit.limit:,.4g} of budget {budget.name} is {budget.latency_ms} of "
            "the full network's time in the profile. The speed of this machine can have changed since."
        )

    runtime = ""
    if any(kind in DEVICE_KINDS and kind not in excluded for kind in limits):
        runtime = budget.runtime
    return BudgetLimits(judged, not_judged, tuple(notes), runtime)


def _explain_missing_file(budget: BudgetSettings, settings: FormatSettings) -> str:
    """Return why the export lacks the file that a budget is for; empty where it has it."""
    name = FORMAT_OF_RUNTIME[budget.runtime]
    if name == "transformers" or name in settings.formats:
        return ""
    # The INT8 file needs the one in fp32 of its library as its reference.
    plain = FORMAT_OF_RUNTIME[budget.runtime.removesuffix("-int8")]
    formats = ",".join(dict.fromkeys([*settings.formats, plain, name]))
    return f"The limits are for a file in {budget.runtime}: add --formats {formats}."


def _explain_machine(table: DeviceTable) -> str:
    """Return why this machine is not the device of a table; empty where it is."""
    cpu = describe_cpu()
    threads = table.conditions.threads
    if is_same_device(cpu, table.machine, threads):
        return ""
    if same_cpu(cpu, table.machine):
        return f"The device has {threads} CPUs or more, and this machine {cpu['cpus']}."

    model = table.machine.get("model", UNKNOWN)
    name = "a CPU that its system does not name" if model == UNKNOWN else f"the CPU {model}"
    return (
        f"The profile is of {name}, and this machine has {cpu['model']}. Export the model on the device; "
        "a limit that is given with --limit is judged on every machine."
    )


def _explain_conditions(context: RunContext, budget: BudgetSettings, settings: FormatSettings) -> str:
    """Return why machine or conditions are not those of a budget; empty where they are."""
    table = context.device.tables.get(budget.name)
    if table is None:
        return "The run lacks a profile of the device."
    if problem := _explain_machine(table):
        return problem

    expected = table.conditions
    lengths = settings.mixed_lengths or settings.lengths[:1] or (context.job.task.max_length,)
    actual = Conditions(
        expected.runtime,
        settings.num_threads(),
        settings.batches[0],
        lengths,
        expected.device,
        settings.longest or None,
    )
    if actual == expected:
        return ""

    return (
        f"The limits are for {expected.describe()}, and the measurement was for {actual.describe()}. "
        f"Export this model with --budget {budget.name}, without --batch, --length and --threads."
    )


def with_budget_conditions(
    context: RunContext, budgets: Collection[str], settings: FormatSettings
) -> FormatSettings:
    """Return settings with the conditions of budgets, where the user chose none and the budgets agree.

    Args:
        context: The run's context.
        budgets: Names of the budgets whose models are exported.
        settings: What the user asked for.
    """
    if not settings.takes_budget_conditions:
        return settings

    cpus = int(str(describe_cpu()["cpus"]))
    conditions = {
        replace(context.device.tables[budget.name].conditions, runtime="")
        for budget in context.job.budget
        if budget.name in budgets
        and budget.name in context.device.tables
        and (budget.latency_ms is not None or budget.memory_mb is not None)
        # More threads than CPUs would wait for each other.
        and budget.threads <= cpus
    }
    # Files of one family are compared, so they are measured alike.
    if len(conditions) != 1:
        return settings

    (own,) = conditions
    return replace(
        settings,
        batches=(own.batch,),
        lengths=(),
        mixed_lengths=own.lengths,
        longest=own.longest or 0,
        threads=own.threads,
    )
