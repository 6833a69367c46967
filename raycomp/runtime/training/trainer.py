"""A training task on Ray Train: 1 to N workers, and checkpoints from which an interrupted run resumes."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raycomp.config.job import Job
from raycomp.errors import UserError
from raycomp.runtime.cluster.actor_filesystem import train_storage
from raycomp.runtime.cluster.capacity import count_worker_slots, share_cpus, total_cpus, total_gpus
from raycomp.runtime.cluster.connect import child_environment
from raycomp.runtime.cluster.progress import polling
from raycomp.runtime.training.checkpoints import rescue_checkpoint
from raycomp.storage.layout import RunLayout

MAX_FAILURES = 3
"""How often a training is started again after a failure that is not the departure of a node."""

_RAYCOMP_ERROR = re.compile(r"raycomp\.[\w.]+: ")


@dataclass(frozen=True)
class WorkerGroup:
    """Number and size of the workers of a training.

    Attributes:
        min_workers: Fewest workers with which the training may run.
        max_workers: Most workers. The training is elastic if it is larger than `min_workers`.
        cpus: CPUs of each worker.
        gpus: GPUs of each worker.
    """

    min_workers: int
    max_workers: int
    cpus: float
    gpus: float

    @property
    def is_elastic(self) -> bool:
        """Whether workers may join and leave."""
        return self.min_workers < self.max_workers


def run_training(
    name: str,
    job: Job,
    run_dir: Path,
    plan: dict[str, Any],
    on_progress: Callable[[int, int, dict[str, Any]], None],
    *,
    method: str = "yoco",
    cpus: float = 0,
) -> None:
    """Run a training task to its end. An interrupted one resumes from its last checkpoint.

    Args:
        name: Name of the training task. A suffix after "." distinguishes several tasks of one kind.
        job: The job.
        run_dir: The run directory.
        plan: What every worker must agree on, as JSON-like values.
        on_progress: Function of steps done, steps in total, and metrics; called twice a second.
        method: Name of the method that the task belongs to.
        cpus: CPUs of each worker if job.train.cpus is 0. If both are 0: a fair share of the cluster.

    Raises:
        UserError: The workers do not fit into the cluster, or the training failed again and again.
    """
    layout = RunLayout(run_dir)
    group = _plan_workers(job, cpus)
    config = {
        "task": name,
        "method": method,
        "job": job.model_dump(mode="json"),
        "run_dir": str(run_dir),
        "plan": plan,
        "threads": max(1, int(group.cpus)),
    }

    rescue_checkpoint(layout.train(name), layout.rescued_checkpoint(name))
    trainer = _make_trainer(name, job, run_dir, group, config)

    environment = _train_environment(job, group)
    poll = _progress_reader(layout.progress(name), on_progress)
    with child_environment(environment), polling(poll), _interruptible():
        try:
            trainer.fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            raise UserError(f"Training task {name} failed. {_root_cause(error)}") from error

    # The trained network is written, so its checkpoints are no longer necessary.
    for folder in (layout.train(name), layout.rescued_checkpoint(name)):
        shutil.rmtree(folder, ignore_errors=True)


def _plan_workers(job: Job, cpus: float) -> WorkerGroup:
    """Return how many workers of which size train.

    Raises:
        UserError: The nodes of the cluster are too small or too few for them.
    """
    settings = job.train
    max_workers = settings.workers
    min_workers = settings.min_workers or max_workers
    is_elastic = min_workers < max_workers

    num_workers = max_workers
    if is_elastic:
        num_workers = max(min_workers, min(max_workers, count_worker_slots(1, settings.gpus)))
    cpus = settings.cpus or cpus or share_cpus(num_workers, settings.gpus)

    # Ray Train would wait for workers that fit nowhere without a message.
    slots = count_worker_slots(cpus, settings.gpus)
    if slots < min_workers:
        key = "min_workers" if is_elastic else "workers"
        raise UserError(
            f"train.{key} = {min_workers} needs {min_workers} workers with {cpus:g} CPUs and "
            f"{settings.gpus:g} GPUs each, but the nodes of the cluster ({total_cpus()} CPUs and "
            f"{total_gpus()} GPUs in total) have room for {slots}. Lower train.{key} or train.cpus."
        )
    return WorkerGroup(min_workers, max_workers, cpus, settings.gpus)


def _make_trainer(
    name: str, job: Job, run_dir: Path, group: WorkerGroup, config: dict[str, Any]
) -> TorchTrainer:
    storage, files = train_storage(run_dir, "train")
    num_workers: int | tuple[int, int] = group.max_workers
    max_failures = MAX_FAILURES

    if group.is_elastic:
        num_workers = (group.min_workers, group.max_workers)
        # A node that leaves is a failure too, and elastic training survives it.
        max_failures += group.max_workers

    return TorchTrainer(
        _run_worker,
        train_loop_config=config,
        torch_config=TorchConfig(timeout_s=int(job.train.barrier_seconds)),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            # A change of size repeats the steps since the last checkpoint, so there must be a checkpoint
            # between two changes.
            elastic_resize_monitor_interval_s=2 * job.train.checkpoint_seconds,
            use_gpu=group.gpus > 0,
            resources_per_worker={"CPU": group.cpus, "GPU": group.gpus},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=max_failures),
            # Each checkpoint has all that the next step depends on.
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )


def _train_environment(job: Job, group: WorkerGroup) -> dict[str, str]:
    """Return the environment variables with the time limits of Ray Train's controller."""
    # A worker that does not answer for this long counts as hung. Ray's default is ten minutes.
    limits = {"RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": f"{job.train.barrier_seconds:g}"}
    if group.is_elastic:
        # Ray counts a dead node for some more seconds, and waits for workers that cannot start there.
        limits["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "30"
    return limits


def _progress_reader(
    path: Path, on_progress: Callable[[int, int, dict[str, Any]], None]
) -> Callable[[], None]:
    """Return a function that reports the progress which rank 0 has written to a file."""

    def read_progress() -> None:
        # The file does not exist before the first step.
        with contextlib.suppress(OSError, ValueError):
            progress = json.loads(path.read_text())
            on_progress(progress["done"], progress["total"], progress)

    return read_progress


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt in the block.

    Ray Train installs a handler of its own that exits the process, and does not restore the former one.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    former_handler = signal.getsignal(signal.SIGINT) if is_main_thread else None
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if is_main_thread:
            signal.signal(signal.SIGINT, former_handler)


def _run_worker(config: dict[str, Any]) -> None:
    """Run one rank. The import is here because Ray Train's controller only passes this function on."""
    from raycomp.runtime.training.worker import run_worker

    run_worker(config)


def _root_cause(error: BaseException) -> str:
    """Return the last line of the worker failure that names the cause.

    If one worker hangs, several fail. The error that raycomp raises in a healthy worker says more than
    what Ray reports about the hung one.
    """
    failures = getattr(error, "worker_failures", {}) or {}
    texts = [str(failure).strip() for failure in failures.values()] or [str(error).strip()]
    last_lines = [text.splitlines()[-1].strip() for text in texts if text]
    if not last_lines:
        return repr(error)

    raycomp_lines = [line for line in last_lines if _RAYCOMP_ERROR.match(line)]
    line = (raycomp_lines or last_lines)[0]
    return _RAYCOMP_ERROR.sub("", line)
