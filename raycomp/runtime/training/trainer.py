"""Ray Train: the same loop on 1..N workers, with checkpoints that an interrupted run goes on from."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from raycomp.runtime.training.checkpoints import rescue_checkpoint, rescued_checkpoint

_OURS = re.compile(r"raycomp\.[\w.]+: ")


def run_training(
    name: str,
    job: Job,
    run_dir: Path,
    plan: dict[str, Any],
    on_progress: Callable[[int, int, dict[str, Any]], None],
    *,
    cpus: float = 0,
) -> None:
    """Run one stage to its end; an interrupted one goes on.

    Args:
        name: a key of `stages.STAGES`; what follows a "." tells several trainings of a kind apart.
        job: the job.
        run_dir: the run's folder.
        plan: what every worker must agree on.
        on_progress: called with steps done, steps in all, and figures.
        cpus: of each worker; job.train.cpus, or a fair share of the cluster, when 0.

    Raises:
        UserError: the workers do not fit into the cluster, or the training failed for good.
    """
    workers = job.train.workers
    fewest = job.train.min_workers or workers
    gpus = job.train.gpus
    elastic = fewest < workers
    room = max(fewest, min(workers, count_worker_slots(1, gpus))) if elastic else workers
    cpus = job.train.cpus or cpus or share_cpus(room, gpus)
    if count_worker_slots(cpus, gpus) < fewest:
        key = "min_workers" if elastic else "workers"
        raise UserError(
            f"train.{key}={fewest} with {cpus:g} CPUs and {gpus:g} GPUs each was given; the cluster "
            f"has {total_cpus()} CPUs and {total_gpus()} GPUs, and its nodes hold "
            f"{count_worker_slots(cpus, gpus)} such workers: lower train.{key} or train.cpus"
        )
    config = {
        "stage": name,
        "job": job.model_dump(mode="json"),
        "run_dir": str(run_dir),
        "plan": plan,
        "threads": max(1, int(cpus)),
    }
    kept = rescued_checkpoint(run_dir, name)
    rescue_checkpoint(run_dir / "train" / name, kept)
    storage, files = train_storage(run_dir, "train")
    trainer = TorchTrainer(
        _worker,
        train_loop_config=config,
        torch_config=TorchConfig(timeout_s=int(job.train.barrier_seconds)),
        scaling_config=ScalingConfig(
            num_workers=(fewest, workers) if elastic else workers,
            # A change costs what came after the last checkpoint: let there be one between two changes.
            elastic_resize_monitor_interval_s=2 * job.train.checkpoint_seconds,
            use_gpu=job.train.gpus > 0,
            resources_per_worker={"CPU": cpus, "GPU": job.train.gpus},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            storage_filesystem=files,
            # A node that leaves is a failure too, where it is to be done without.
            failure_config=FailureConfig(max_failures=3 + (workers if elastic else 0)),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    path = run_dir / "progress" / f"{name}.json"

    def look() -> None:
        with contextlib.suppress(OSError, ValueError):
            data = json.loads(path.read_text())
            on_progress(data["done"], data["total"], data)

    # A worker that answers no poll so long is taken as hung; Ray waits ten minutes by itself.
    limit = {"RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": f"{job.train.barrier_seconds:g}"}
    if elastic:  # a dead node is counted for some seconds more, and its workers would be waited for
        limit["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "30"
    with child_environment(limit), polling(look), _interruptible():
        try:
            trainer.fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            raise UserError(f"training of the {name} failed: {_root_cause(error)}") from error
    for folder in (run_dir / "train" / name, kept):  # the trained network is written
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let ^C be KeyboardInterrupt: Train sets a handler that ends the process, and leaves it behind."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def _worker(config: dict[str, Any]) -> None:
    """Run one rank. What it needs is imported there: Train's controller only passes this on."""
    from raycomp.runtime.training.worker import work

    work(config)


def _root_cause(error: BaseException) -> str:
    """Return the last line of a worker's failure: the message that speaks of the cause.

    When one worker hangs, several fail. What raycomp itself raised, in a worker that is well, says
    more than what Ray found out about the other.
    """
    failures = getattr(error, "worker_failures", {}) or {}
    causes = [str(e).strip() for e in failures.values()] or [str(error).strip()]
    lasts = [cause.splitlines()[-1].strip() for cause in causes if cause]
    ours = [line for line in lasts if _OURS.match(line)]
    return _OURS.sub("", (ours or lasts)[0]) if lasts else repr(error)
