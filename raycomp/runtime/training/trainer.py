"""A training task on Ray Train: 1 to N workers, and checkpoints from which an interrupted run resumes."""

from __future__ import annotations

import contextlib
import json
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
from ray.train.torch import TorchConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raycomp.config.job import Job
from raycomp.errors import ProcessLostError, TrainingEndedError, UserError
from raycomp.runtime.cluster.actor_filesystem import train_storage
from raycomp.runtime.cluster.capacity import count_worker_slots, share_cpus, total_cpus, total_gpus
from raycomp.runtime.cluster.connect import child_environment
from raycomp.runtime.cluster.progress import polling
from raycomp.runtime.cluster.stack_traces import add_trace, describe_cause, save_stack_trace
from raycomp.runtime.cluster.waiting import Resources, WaitNotice, list_waiting_groups
from raycomp.runtime.training.checkpoints import rescue_checkpoint
from raycomp.runtime.training.failures import FailureCounter
from raycomp.runtime.training.light_trainer import GroupTrainer, SingleTrainer
from raycomp.storage.layout import RunLayout


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
    say: Callable[[str], None] | None = None,
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
        say: Function that shows a line. It says that the workers wait for resources.

    Raises:
        UserError: The workers do not fit into the cluster, or the training failed for good.
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

    poll = _ProgressReader(layout.progress(name), name, on_progress, say).poll
    with child_environment(_train_environment(job, group)), polling(poll), _interruptible():
        try:
            trainer.fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            raise _describe_failed(error, run_dir, name) from error

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
) -> DataParallelTrainer:
    storage, files = train_storage(run_dir, "train")
    num_workers: int | tuple[int, int] = group.max_workers
    max_failures = job.train.max_failures

    if group.is_elastic:
        num_workers = (group.min_workers, group.max_workers)
        # A node that leaves is a failure too, and elastic training survives it.
        max_failures += group.max_workers

    scaling = ScalingConfig(
        num_workers=num_workers,
        # A change of size repeats the steps since the last checkpoint, so there must be a checkpoint
        # between two changes.
        elastic_resize_monitor_interval_s=2 * job.train.checkpoint_seconds,
        use_gpu=group.gpus > 0,
        resources_per_worker={"CPU": group.cpus, "GPU": group.gpus},
    )
    run = RunConfig(
        name=name,
        storage_path=storage,
        storage_filesystem=files,
        # The counter ends the training, because Ray Train does not know what progress is.
        failure_config=FailureConfig(max_failures=-1),
        callbacks=[FailureCounter(str(run_dir), name, max_failures)],
        # Each checkpoint has all that the next step depends on.
        checkpoint_config=CheckpointConfig(num_to_keep=1),
    )
    if group.max_workers == 1 and not group.gpus:
        return SingleTrainer(
            _run_worker, train_loop_config=config, scaling_config=scaling, run_config=run
        )
    return GroupTrainer(
        _run_worker,
        train_loop_config=config,
        torch_config=TorchConfig(timeout_s=int(job.train.barrier_seconds)),
        scaling_config=scaling,
        run_config=run,
    )


def _train_environment(job: Job, group: WorkerGroup) -> dict[str, str]:
    """Return the environment variables with the time limits of Ray Train's controller."""
    seconds = f"{job.train.barrier_seconds:g}"
    limits = {
        # A worker that does not answer for this long counts as hung. Ray's default is ten minutes.
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": seconds,
        # A worker with a stuck thread answers, but never reaches a report. Ray would wait without limit.
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": seconds,
    }
    if group.is_elastic:
        # Ray counts a dead node for some more seconds, and waits for workers that cannot start there.
        limits["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "30"
    return limits


class _ProgressReader:
    """Reports the progress that rank 0 has written to a file, or that the workers cannot start."""

    def __init__(
        self,
        path: Path,
        name: str,
        on_progress: Callable[[int, int, dict[str, Any]], None],
        say: Callable[[str], None] | None,
    ) -> None:
        self._path = path
        self._on_progress = on_progress
        self._notice = None if say is None else WaitNotice(name, say)
        self._changed_at = 0
        # Those of others, and of former trainings.
        self._other_groups = set(ray.util.placement_group_table())

    def poll(self) -> None:
        """Read the file; called twice a second."""
        # The file does not exist before the first step.
        with contextlib.suppress(OSError, ValueError):
            progress = json.loads(self._path.read_text())
            changed_at = self._path.stat().st_mtime_ns
            self._on_progress(progress["done"], progress["total"], progress)
            if changed_at != self._changed_at and self._notice is not None:
                self._changed_at = changed_at
                self._notice.restart()

        if self._notice is not None and self._notice.is_due:
            self._notice.update(self._missing_resources())

    def _missing_resources(self) -> Resources | None:
        """Return what the workers wait for; None if they have it."""
        return next(iter(list_waiting_groups(self._other_groups).values()), None)


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


def _describe_failed(error: Exception, run_dir: Path, name: str) -> UserError:
    """Return the user's error about a training that has ended with an error of Ray Train."""
    start = f"Training task {name} failed."
    # The counter has decided that another attempt is useless, and its message is complete.
    cause = getattr(error, "controller_failure", error)
    if isinstance(cause, TrainingEndedError):
        return UserError(f"{start} {cause}")
    text = add_trace(describe_cause(error), save_stack_trace(run_dir, name, error))
    return ProcessLostError(f"{start} {text}")
