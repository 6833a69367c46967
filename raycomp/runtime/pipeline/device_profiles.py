"""Profiles of the devices that budgets are for: made on this machine, on a node, or read from a file."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raycomp.config.budget import BudgetSettings
from raycomp.config.job import Job
from raycomp.deployment.cpu import describe_load, describe_machine, pinned_to_cpus
from raycomp.deployment.network_bench import NetworkBench
from raycomp.deployment.network_files import NetworkFiles
from raycomp.deployment.openvino_files import start_openvino
from raycomp.deployment.profile import Bench, choose_networks, measure_table
from raycomp.encoder.architecture import FULL_TABLE, Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.encoder.device_table import Conditions, DeviceTable, Layer, describe_encoder
from raycomp.encoder.layers import EncoderConfig
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.device_checks import find_runtime_problems
from raycomp.search.device_budgets import conditions_of, match_table, read_profile
from raycomp.search.setup import make_space
from raycomp.storage.files import write_json

RANDOM_NETWORKS = 8
"""Random networks of the space that the correction is fitted on, next to the smallest and the largest."""

MEMORY_NETWORKS = 4
"""Networks whose memory is measured, each in a process of its own."""

Update = Callable[[int, int], None]
"""Function of networks done and networks in all."""


@dataclass(frozen=True)
class ProfileTask:
    """What is measured for budgets with the same conditions; it can be sent to another machine.

    Attributes:
        config: Shapes of the full network.
        conditions: Where and how to measure.
        layers: Kinds of layers of the search space.
        networks: Whole networks of the search space.
        memory: Those of them whose memory is measured.
        ranks: Ranks of word tables of the search space.
    """

    config: EncoderConfig
    conditions: Conditions
    layers: tuple[Layer, ...]
    networks: tuple[Architecture, ...]
    memory: tuple[Architecture, ...]
    ranks: tuple[int, ...] = ()

    def measure(
        self,
        update: Update = lambda done, total: None,
        *,
        files: NetworkFiles | None = None,
        bench: Bench | None = None,
    ) -> DeviceTable:
        """Return the table of this machine.

        Args:
            update: Progress function.
            files: Files of networks that other tasks use too; None writes them for this task only.
            bench: Where the networks run. A bench that also runs others gives comparable times.

        Raises:
            UserError: A file cannot be written or run.
        """
        encoder = describe_encoder(EncoderShape.from_config(self.config))
        machine = describe_machine(self.conditions.threads)
        if bench is None and self.conditions.library == "openvino":
            start_openvino()

        with contextlib.ExitStack() as stack:
            machine["pinned_cpus"] = stack.enter_context(pinned_to_cpus(self.conditions.threads))
            if bench is None:
                files = files or stack.enter_context(open_files([self]))
                bench = NetworkBench(self.config, self.conditions, files, update)
            return measure_table(
                bench,
                self.conditions,
                encoder,
                machine,
                self.layers,
                self.networks,
                self.memory,
                self.ranks,
            )


def open_files(tasks: Sequence[ProfileTask]) -> NetworkFiles:
    """Return a folder for the files of tasks of one encoder."""
    longest = max(task.conditions.max_length for task in tasks)
    return NetworkFiles(tasks[0].config, longest)


def plan_profiles(
    job: Job, config: EncoderConfig, budgets: Sequence[BudgetSettings]
) -> dict[tuple[str | None, Conditions], ProfileTask]:
    """Return what to measure, by node and conditions.

    Args:
        job: The job.
        config: Shapes of the full network.
        budgets: Budgets of the job whose devices are not known.
    """
    space = make_space(job, EncoderShape.from_config(config))
    ranks = sorted({table.rank for table in space.tables if table.rank is not None})

    # The layers are measured with the full word table.
    space = replace(space, tables=(FULL_TABLE,))

    # The same networks on every device: two profiles of one job can be compared.
    rng = np.random.default_rng(0)
    networks = choose_networks(
        space.smallest(),
        space.largest(),
        functools.partial(space.sample_uniform, rng),
        RANDOM_NETWORKS,
    )

    # Budgets of one device share its table, however many there are.
    groups: dict[tuple[str | None, Conditions], list[BudgetSettings]] = {}
    for budget in budgets:
        groups.setdefault((budget.node, conditions_of(job, budget)), []).append(budget)

    tasks = {}
    for (node, conditions), members in groups.items():
        has_memory = any(budget.memory_mb is not None for budget in members)
        tasks[node, conditions] = ProfileTask(
            config,
            conditions,
            tuple((heads, ffn) for heads in space.heads for ffn in space.ffn),
            tuple(networks),
            tuple(networks[:MEMORY_NETWORKS]) if has_memory else (),
            tuple(ranks),
        )
    return tasks


def profile_job(
    job: Job, config: EncoderConfig, update: Callable[[Conditions], Update]
) -> list[DeviceTable]:
    """Return a table of this machine for each kind of device that the job's budgets are for.

    Args:
        job: The job.
        config: Shapes of the full network.
        update: From conditions to the progress function of their measurement.

    Raises:
        UserError: No budget is for a device, this machine lacks what a measurement needs, or one failed.
    """
    budgets = [budget for budget in job.budget if budget.is_for_device]
    if not budgets:
        raise UserError(
            "No budget of the job limits latency_ms, memory_mb or size_mb, so a profile is not needed. "
            "Add such a limit to a [[budget]]."
        )

    # Writing the networks takes minutes, and the weakest machine would fail after that.
    problems = [
        problem
        for budget in budgets
        for problem in find_runtime_problems(budget, conditions_of(job, budget), config, is_local=True)
    ]
    if problems:
        raise UserError("\n".join(problems))

    # Here, the node of a budget is this machine.
    tasks = {task.conditions: task for task in plan_profiles(job, config, budgets).values()}
    with open_files(list(tasks.values())) as files:
        return [task.measure(update(task.conditions), files=files) for task in tasks.values()]


def write_profile(path: Path, tables: Sequence[DeviceTable]) -> None:
    """Write the file that a budget's setting `profile` names."""
    write_json(path, {"tables": [table.to_dict() for table in tables]})


def measure_task(
    task: ProfileTask,
    node: str | None,
    update: Update,
    files: NetworkFiles | None = None,
    say: Callable[[str], None] = print,
) -> DeviceTable:
    """Return the table of this machine, or of a node with a resource.

    Args:
        task: What to measure.
        node: Name of the node's resource; None is this machine.
        update: Progress function.
        files: Files of networks that other tasks of this machine use too.
        say: Function that shows a line.

    Raises:
        UserError: No node has the resource, or the measurement failed.
    """
    if node is None:
        if load := describe_load():
            say(f"Warning: {load}")
        return task.measure(update, files=files)
    # Imported here: `raycomp profile` works without a cluster.
    from raycomp.runtime.cluster.node_tasks import run_on_node

    say(f"The node with the resource {node!r} measures {task.conditions.describe()}. It takes minutes.")

    table, load = run_on_node(node, task.conditions.threads, _measure_remotely, task, say)
    if load:
        say(f"Warning: the node with the resource {node!r}: {load}")
    return table


def _measure_remotely(task: ProfileTask) -> tuple[DeviceTable, str | None]:
    """Return the table of the node, and a warning where other programs computed there."""
    load = describe_load()
    return task.measure(), load


Measure = Callable[[ProfileTask, str | None, Update, NetworkFiles, Callable[[str], None]], DeviceTable]


def record_profiles(context: RunContext, progress: Progress, measure: Measure = measure_task) -> None:
    """Measure the devices that are not known yet, and record the tables of all budgets in the run.

    Args:
        context: The run's context. Its costs use the new tables.
        progress: Shows a bar per device.
        measure: Function like `measure_task`.

    Raises:
        UserError: A profile has changed since the run began, a node is missing, or a measurement failed.
    """
    budgets = [budget for budget in context.job.budget if budget.is_for_device]
    path = context.layout.devices.profile
    if not budgets:
        return
    if path.exists():
        _check_unchanged(context)
        return

    # Budgets that name a profile have their tables already.
    tables = dict(context.device.tables)
    open_budgets = [budget for budget in budgets if budget.name not in tables]
    tasks = plan_profiles(context.job, context.config, open_budgets)
    if tasks:
        with open_files(list(tasks.values())) as files:
            measured = {
                (node, conditions): _measure_and_say(task, node, progress, measure, files)
                for (node, conditions), task in tasks.items()
            }
        for budget in open_budgets:
            tables[budget.name] = measured[budget.node, conditions_of(context.job, budget)]

    write_json(path, {name: table.to_dict() for name, table in tables.items()})
    context.forget_device()


def _measure_and_say(
    task: ProfileTask, node: str | None, progress: Progress, measure: Measure, files: NetworkFiles
) -> DeviceTable:
    """Return the table of one task, and print how well its correction fits."""
    with progress.bar("profile") as bar:
        table = measure(task, node, _without_metrics(bar), files, progress.say)
    errors = np.percentile(table.errors("latency_ms"), (50, 100))
    progress.say(
        f"Profile of {task.conditions.describe()}: {len(table.layers)} kinds of layers. The correction "
        f"fits {len(table.networks)} networks to {errors[0]:.1%} (median), {errors[1]:.1%} (worst)."
    )
    return table


def _without_metrics(bar: Callable[[int, int, dict[str, Any]], None]) -> Update:
    return lambda done, total: bar(done, total, {})


def _check_unchanged(context: RunContext) -> None:
    """Refuse to resume with another profile or other lengths than the run began with.

    Raises:
        UserError: A file has changed.
    """
    # On another machine a file may be missing: the run has its content.
    for budget in context.job.budget:
        if budget.lengths is not None and Path(budget.lengths).exists():
            recorded = context.device.tables[budget.name].conditions
            current = conditions_of(context.job, budget)

            # An earlier version did not record the longest text.
            is_known = recorded.longest is not None
            if current.lengths != recorded.lengths or (is_known and current.longest != recorded.longest):
                raise _change_error(budget, f"file of lengths {budget.lengths}")

    named = [budget for budget in context.job.budget if budget.profile is not None]
    if not all(Path(str(budget.profile)).exists() for budget in named):
        return

    for budget in named:
        recorded_table = context.device.tables[budget.name]
        table = match_table(
            read_profile(Path(str(budget.profile))), recorded_table.conditions, context.shape, budget
        )
        if table.to_dict() != recorded_table.to_dict():
            raise _change_error(budget, "profile")


def _change_error(budget: BudgetSettings, name: str) -> UserError:
    return UserError(
        f"Budget {budget.name}: its {name} has changed since the run began. Restore the file, or choose "
        "another run.name for a new run."
    )
