"""How many tasks and trainings run at the same time: at most as many as the memory of the nodes allows.

Ray knows what a machine has. Its processes may use less of it, in a container for example, and a run that
takes more memory than that is killed after its expensive part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycomp.encoder.architecture import Architecture
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.capacity import count_worker_slots
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.placement import on_driver_node
from raycomp.runtime.scoring.evaluator_slots import PROCESS_BYTES, EvaluatorNode, read_nodes

WEIGHT_BYTES = 4
"""Bytes of a weight that is only read."""

TRAINED_BYTES = 16
"""Bytes of a trained weight: the weight, its gradient and the two averages of AdamW."""


@dataclass(frozen=True)
class WorkSize:
    """Resources of one task or training.

    Attributes:
        cpus: CPUs of each of its processes.
        gpus: GPUs of each of its processes.
        memory: Bytes of each of its processes.
        processes: Number of processes, each on any node.
    """

    cpus: float
    gpus: float
    memory: int
    processes: int = 1

    def count_on(self, nodes: Sequence[EvaluatorNode]) -> int:
        """Return how many of these fit on some nodes at the same time, at least 1."""
        slots = 0
        for node in nodes:
            limits = []
            if self.cpus:
                limits.append(int(node.cpus // self.cpus))
            if self.gpus:
                limits.append(int(node.gpus // self.gpus))
            if node.memory is not None:
                limits.append(node.memory // self.memory)
            slots += min(limits, default=0)
        return max(1, slots // self.processes)


def task_bytes(context: RunContext, *, reads_models: bool) -> int:
    """Return the memory of one task: its process, and two models while they load.

    Args:
        context: Context of the job.
        reads_models: Whether the task reads the teacher or another model of its size. Two of them: a task
            of augmentation has an encoder and a masked language model.
    """
    if not reads_models:
        return PROCESS_BYTES

    return PROCESS_BYTES + 2 * 2 * WEIGHT_BYTES * _full_params(context)


def training_bytes(context: RunContext, trial: Mapping[str, Any]) -> int:
    """Return the memory of one worker of a training: teacher, full network, and what it trains.

    Activations are left out: they are small next to the weights, except in long texts.

    Args:
        context: Context of the job. On a GPU, the host needs the memory of the weights while they load.
        trial: Arguments of the trial. "archs" has the networks that the training heals, as JSON.
    """
    # The trial's own process and Ray Train's controller run too.
    needed = 3 * PROCESS_BYTES + 3 * WEIGHT_BYTES * _full_params(context)
    if context.job.train.gpus:
        return needed

    archs = [Architecture.from_json(text) for text in trial.get("archs", ())]
    trained = sum(float(context.costs.cost("encoder_params", arch)) for arch in archs)
    return needed + int(TRAINED_BYTES * trained)


@dataclass(frozen=True)
class TaskPlan:
    """Where tasks run, and how many of them at the same time.

    Attributes:
        options: Ray's options of a task.
        num_tasks: Number of tasks.
        num_slots: How many Ray's resources have room for.
        size: Resources of a task.
        driver_node: Ray's id of the only node on which they run; None for all nodes.
    """

    options: dict[str, Any]
    num_tasks: int
    num_slots: int
    size: WorkSize
    driver_node: str | None = None

    def limit(self, title: str, say: Callable[[str], None]) -> int | None:
        """Return how many tasks may run at the same time; None: as many as Ray has resources for.

        Args:
            title: Name of the work.
            say: Function that shows a line if memory allows fewer.
        """
        fitting = limit_parallel(
            title, self.num_slots, self.num_tasks, self.size, say, driver_node=self.driver_node
        )
        # Without a limit, tasks use nodes that join later too.
        if self.driver_node is None and fitting >= min(self.num_slots, self.num_tasks):
            return None
        return fitting


def plan_tasks(
    num_tasks: int, threads: int, memory: int, *, needs_gpu: bool, is_pinned: bool
) -> TaskPlan:
    """Choose where tasks run.

    Args:
        num_tasks: Number of tasks.
        threads: CPU threads of each.
        memory: Bytes of each.
        needs_gpu: Whether each gets a GPU.
        is_pinned: Whether they stay on the driver node.
    """
    if is_pinned:
        driver = ray.get_runtime_context().get_node_id()
        options = {"num_cpus": 0, "scheduling_strategy": on_driver_node()}
        return TaskPlan(options, num_tasks, max(2, _ray_cpus(driver)), WorkSize(0.0, 0.0, memory), driver)
    if needs_gpu:
        size = WorkSize(1.0, 1.0, memory)
        return TaskPlan({"num_gpus": 1.0}, num_tasks, count_worker_slots(1, 1), size)

    # A task that takes all CPUs of a node that Ray counts may use fewer of them. One fits there anyway.
    size = WorkSize(0.0 if threads > 1 else 1.0, 0.0, memory)
    return TaskPlan({"num_cpus": float(threads)}, num_tasks, count_worker_slots(threads), size)


def limit_parallel(
    title: str,
    num_slots: int,
    num_works: int,
    size: WorkSize,
    say: Callable[[str], None],
    *,
    driver_node: str | None = None,
) -> int:
    """Return how many tasks or trainings may run at the same time, and say so if these are fewer.

    Args:
        title: Name of the work.
        num_slots: How many Ray's resources have room for.
        num_works: Number of tasks or trainings.
        size: Resources of one of them.
        say: Function that shows a line.
        driver_node: Ray's id of the only node on which they run; None for all nodes.
    """
    num_parallel = min(num_slots, num_works)
    # The nodes are asked only where there is something to limit.
    if num_parallel <= 1:
        return num_slots

    nodes = read_nodes()
    if driver_node is not None:
        nodes = [node for node in nodes if node.node_id == driver_node]

    fitting = size.count_on(nodes)
    if fitting >= num_parallel:
        return num_slots

    subject = title[:1].upper() + title[1:]
    say(
        f"{subject} runs {fitting} at a time, although Ray has room for {num_parallel}: each "
        f"needs about {size.memory / 2**30:.1f} GiB, and the nodes have no more free memory or CPUs for "
        "their processes."
    )
    return fitting


def _ray_cpus(node_id: str) -> int:
    """Return the CPUs that a node offers to Ray."""
    for node in ray.nodes():
        if node["NodeID"] == node_id:
            return int(node["Resources"].get("CPU", 0))
    return 0


def _full_params(context: RunContext) -> int:
    return int(context.costs.cost("params", context.space.largest()))
