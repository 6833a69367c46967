"""The function that every rank of a training task runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero

from raycomp.config.loader import parse_job
from raycomp.data.batches import Batch, collate, padding, shard, words_of
from raycomp.errors import AllReduceError, MissingRankError, first_line
from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_training_task
from raycomp.methods.tasks import TrainingTask
from raycomp.runtime.cluster.devices import check_granted_gpus
from raycomp.runtime.cluster.replica import NodeRunDir, open_run_dir
from raycomp.runtime.training.all_reduce import FlatAllReduce
from raycomp.runtime.training.checkpoints import load_checkpoint
from raycomp.runtime.training.failures import describe_failure
from raycomp.runtime.training.recorder import TrainingReporter
from raycomp.runtime.training.sampler_client import ActorSampler, open_attempt
from raycomp.storage.layout import RunLayout
from raycomp.training.loop import StepResult, TrainStep, fit
from raycomp.training.seeding import worker_seed


def run_worker(config: dict[str, Any]) -> None:
    """Train on one rank, from the last checkpoint to the end of the training task.

    All ranks take these steps in the same order:

    1. Build the training task, and load the last checkpoint into it.
    2. Open an attempt. From then on the file server and the sampler actor refuse older attempts.
    3. Run the training loop. Each rank trains on its share of every batch; rank 0 records the rows.
    4. On rank 0: write the trained network to the run directory.

    Args:
        config: Configuration from `trainer.run_training`: the task's name ("task"), its method, the
            job, the run directory, the plan that all ranks agree on, and the threads of this process.

    Raises:
        RankFailedError: Training failed on this rank.
    """
    try:
        _train(config)
    except Exception as error:
        barrier_seconds = parse_job(config["job"]).train.barrier_seconds
        raise describe_failure(error, barrier_seconds) from error


def _train(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    job = parse_job(config["job"])
    name = config["task"]
    rank = ray.train.get_context().get_world_rank()
    world_size = ray.train.get_context().get_world_size()
    check_granted_gpus()
    device = ray.train.torch.get_device()
    run_dir = open_run_dir(Path(config["run_dir"]))

    # Several trainings of one kind have names such as "adabert-search.0".
    task: TrainingTask = load_training_task(config["method"], name)(
        RunContext(job, run_dir.folder, method=config["method"]),
        config["plan"],
        device=device,
        reduce=FlatAllReduce() if world_size > 1 else None,
    )
    start, state = _load_last_checkpoint(task, RunLayout(run_dir.folder).rescued_checkpoint(name))
    attempt = _open_attempt(task, name, run_dir, rank, world_size, start, state)

    reporter = TrainingReporter(task, name, run_dir, rank, world_size, start, attempt, job)
    fit(
        _with_rank_names(task),
        _make_batches(task, rank, world_size, padding(device)),
        start,
        task.num_steps,
        seed=worker_seed(task.data_seed, rank),
        report=reporter.report,
    )

    if rank == 0:
        reporter.flush()
        run_dir.check_attempt()
        task.finish()
        run_dir.push()
    # The last report of all ranks: Ray Train's controller then has a checkpoint of the very end.
    reporter.checkpoint(task.num_steps)


def _load_last_checkpoint(task: TrainingTask, rescued: Path) -> tuple[int, dict[str, Any] | None]:
    """Load weights and optimizer from the last checkpoint.

    Args:
        task: Training task that takes them.
        rescued: Directory of a checkpoint that Ray Train no longer knows; see `rescue_checkpoint`.

    Returns:
        The first step to train, and the rest of the checkpoint's state. Without a checkpoint: 0 and None.
    """
    with _last_checkpoint(rescued) as folder:
        if folder is None:
            return 0, None
        weights, optimizer, state = load_checkpoint(folder)

    task.model.load_state_dict(weights)
    task.updater.load_state_tensors(optimizer)
    return int(state["step"]), state


@contextlib.contextmanager
def _last_checkpoint(rescued: Path) -> Iterator[Path | None]:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            yield Path(folder)
    elif rescued.is_dir():
        yield rescued
    else:
        yield None


def _open_attempt(
    task: TrainingTask,
    name: str,
    run_dir: NodeRunDir,
    rank: int,
    world_size: int,
    start: int,
    state: dict[str, Any] | None,
) -> str:
    """Open a new attempt at the training task, and return its identifier, which all ranks share."""
    attempt = ""
    if rank == 0:
        attempt = run_dir.start_attempt(name)
    if world_size > 1:
        attempt = broadcast_from_rank_zero(attempt)

    # The plan of a task without a sampler does not name an actor.
    sampler = None
    settings = task.plan.get("sampler", {})
    if "actor" in settings:
        if rank == 0:
            sampler_state = settings["state"] if state is None else state["sampler"]
            timeout = task.context.job.train.barrier_seconds
            open_attempt(settings["actor"], attempt, world_size, start, sampler_state, timeout)
        sampler = ActorSampler.connect(settings["actor"], attempt, rank)
    task.begin(rank, world_size, sampler)

    # No rank may ask the sampler before rank 0 has opened the attempt there.
    if world_size > 1:
        broadcast_from_rank_zero(True)
    return attempt


def _make_batches(
    task: TrainingTask, rank: int, world_size: int, multiple: int
) -> Callable[[int], Batch]:
    """Return the function from a step to this rank's share of its batch.

    Args:
        task: The training task.
        rank: This rank.
        world_size: Number of ranks.
        multiple: Multiple of tokens to which sequences are padded.
    """
    tokens = task.tokens
    plan = task.batch_plan()

    def batch_at(index: int) -> Batch:
        rows = plan.rows(index)
        own_rows = shard(rows, rank, world_size)

        # The optimizer must know the embeddings that any rank uses.
        words = words_of(tokens, rows, task.context.pad_id) if world_size > 1 else None
        return collate(
            tokens,
            own_rows,
            task.context.pad_id,
            multiple=multiple,
            total=len(rows),
            total_tokens=int(tokens.row_lengths(rows).sum()),
            words=words,
        )

    return batch_at


def _with_rank_names(task: TrainingTask) -> TrainStep:
    """Return the task's step; if its all-reduce fails, the error names the missing ranks.

    The error of the backend has network addresses at most, and ranks that still run raise it first.
    """
    run_step = task.step

    def step(index: int, batch: Batch) -> StepResult:
        try:
            return run_step(index, batch)
        except (AllReduceError, dist.DistError) as error:
            _abort_process_group()
            raise MissingRankError(
                f"Step {index}: the all-reduce of the gradients failed because "
                f"{task.describe_failed_step(index)} ({first_line(error)}). Check the node of that "
                "worker, then run the same command again: training resumes from the last checkpoint."
            ) from error

    return step


def _abort_process_group() -> None:
    """Close this rank's connections.

    With gloo, only the neighbours of a rank in the ring notice that it has failed. The others learn of
    the failure when their neighbours close their connections too.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
