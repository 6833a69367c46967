"""What every rank of a training runs: the stage, the loop, its rows and its checkpoints."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from ray.train.collective import broadcast_from_rank_zero
from torch import Tensor

from raycomp.config.job import Job
from raycomp.config.loader import parse_job
from raycomp.data.batches import Batch, TrainPlan, collate, padding, shard, words_of
from raycomp.errors import AllReduceError, MissingRankError, first_line
from raycomp.runtime.cluster.replica import RunReplica
from raycomp.runtime.training.checkpoints import load_checkpoint, rescued_checkpoint, save_checkpoint
from raycomp.runtime.training.elastic_tasks import STAGES
from raycomp.runtime.training.training_task import TrainingTask
from raycomp.storage.files import write_json
from raycomp.storage.tables import part_files, write_rows
from raycomp.training.loop import StepResult, TrainStep, fit

FLUSH_STEPS = 50
CHECK_STEPS = 10


def work(config: dict[str, Any]) -> None:
    """What every rank runs."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config["threads"])
    job, visit = parse_job(config["job"]), RunReplica(Path(config["run_dir"]))
    device = ray.train.torch.get_device()
    attempt = broadcast_from_rank_zero(f"{time.time_ns():x}") if world > 1 else f"{time.time_ns():x}"
    stage = STAGES[config["stage"].partition(".")[0]](
        job, visit.folder, config["plan"], device=device, reduce=FlatAllReduce() if world > 1 else None
    )
    start, state = 0, None
    with _checkpoint(rescued_checkpoint(visit.folder, config["stage"])) as begun:
        if begun is not None:
            weights, optimizer, state = load_checkpoint(begun)
            stage.model.load_state_dict(weights)
            stage.updater.load_state_tensors(optimizer)
            start = int(state["step"])
    if rank == 0:
        visit.enter(config["stage"], attempt)
    stage.begin(attempt, rank, world, start, state)
    if world > 1:
        broadcast_from_rank_zero(True)  # nobody asks before rank 0 has opened the attempt
    keeper = TrainingReporter(stage, config["stage"], visit, rank, world, start, job)
    fit(
        _with_rank_names(stage),
        _batches(stage, job, rank, world, padding(device)),
        start,
        stage.total,
        seed=job.run.seed * 4099 + rank,
        report=keeper.report,
    )
    if rank == 0:
        keeper.flush()
        stage.finish()
        visit.push()
    # A last report for all ranks: the controller then knows a checkpoint at the very end.
    keeper.checkpoint(stage.total)


@contextlib.contextmanager
def _checkpoint(kept: Path) -> Iterator[Path | None]:
    """Give the checkpoint to go on from: Ray Train's, else a rescued one; None where there is none."""
    known = ray.train.get_checkpoint()
    if known is None:
        yield kept if kept.is_dir() else None
    else:
        with known.as_directory() as folder:
            yield Path(folder)


def _batches(
    stage: TrainingTask, job: Job, rank: int, world: int, multiple: int
) -> Callable[[int], Batch]:
    tokens = stage.tokens
    plan = TrainPlan(tokens.lengths, stage.batch_size, job.run.seed)

    def at(index: int) -> Batch:
        rows = plan.rows(index)
        mine = shard(rows, rank, world)
        return collate(
            tokens, mine, stage.pad_id, multiple=multiple,
            total=len(rows), total_tokens=int(tokens.lengths[rows].sum()),
            words=words_of(tokens, rows, stage.pad_id) if world > 1 else None,
        )  # fmt: skip

    return at


def _with_rank_names(stage: TrainingTask) -> TrainStep:
    """Return the stage's step; when the sum over the workers fails in it, the error names who lacks.

    The backend's own error knows addresses at most, and it comes first in the ranks that are well.
    """
    run = stage.step

    def step(index: int, batch: Batch) -> StepResult:
        try:
            return run(index, batch)
        except (AllReduceError, dist.DistError) as error:
            _abort_process_group()
            raise MissingRankError(
                f"step {index}: {stage.describe_failed_step(index)}; the sum over the workers failed: "
                f"{first_line(error)}"
            ) from error

    return step


def _abort_process_group() -> None:
    """Close this rank's connections: in gloo a rank learns only from those beside it that one is gone."""
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


class FlatAllReduce:
    """One all-reduce of everything: one tensor where it lies, several flattened and written back.

    Its memory is kept from step to step: pages that are new take as long to touch as to sum.
    """

    def __init__(self) -> None:
        self._held = torch.empty(0, dtype=torch.float32)

    def __call__(self, tensors: list[Tensor]) -> None:
        """Sum tensors over the workers, in place.

        Raises:
            AllReduceError: A rank did not take part in time, or its connection broke. One tensor may then
                contain neither its own values nor the sum.
        """
        if len(tensors) == 1 and tensors[0].is_contiguous() and tensors[0].dtype == torch.float32:
            _sum(tensors[0])
            return
        sizes, device = [t.numel() for t in tensors], tensors[0].device
        if self._held.numel() < sum(sizes) or self._held.device != device:
            self._held = torch.empty(0)  # not both at once
            self._held = torch.empty(sum(sizes), dtype=torch.float32, device=device)
        flat = self._held[: sum(sizes)]
        # In the order in which each lies in memory: matrices that are cut by columns lie by columns.
        tensors = [t if t.is_contiguous() or t.ndim != 2 else t.t() for t in tensors]
        parts = [p.view(t.shape) for p, t in zip(flat.split(sizes), tensors, strict=True)]
        torch._foreach_copy_(parts, tensors)
        _sum(flat)
        torch._foreach_copy_(tensors, parts)


def _sum(flat: Tensor) -> None:
    try:
        dist.all_reduce(flat)
    except RuntimeError as error:  # gloo raises no class of its own
        raise AllReduceError(first_line(error)) from error


class TrainingReporter:
    """Rows, checkpoints and the progress file of one rank; the loop's `report`."""

    def __init__(
        self,
        stage: TrainingTask,
        name: str,
        visit: RunReplica,
        rank: int,
        world: int,
        start: int,
        job: Job,
    ) -> None:
        self._stage, self._name, self._visit, self._run_dir = stage, name, visit, visit.folder
        self._rank, self._world = rank, world
        self._every = job.train.checkpoint_seconds
        self._rows: list[dict[str, Any]] = []
        self._first = start
        self._theta: list[dict[str, Any]] = []
        self._saved_at = time.monotonic()
        self._shown_at = 0.0
        if rank == 0:  # what an interrupted attempt wrote after its last checkpoint is redone
            for table in ("steps", "distribution"):
                for path in part_files(visit.folder, table):
                    stem, _, first = path.stem.rpartition("-")
                    if stem == name and int(first) >= start:
                        visit.remove(path)
            if start == 0:
                self._theta = stage.distribution_rows(0)

    def report(self, index: int, result: StepResult, seconds: float) -> None:
        """Record one step; write rows, progress and a checkpoint when they are due."""
        done = index + 1
        if self._rank == 0:
            info = {"loss": result.loss, **result.info}
            self._rows.append(
                {
                    "run": self._run_dir.name,
                    "method": self._stage.method,
                    "step": index,
                    "epoch": index / self._stage.steps_per_epoch,
                    "tokens": result.tokens,
                    "seconds": seconds,
                    "training": self._name,
                    **info,
                }
            )
            if done % FLUSH_STEPS == 0 or self._stage.is_phase_start(
                index
            ):  # theta is kept as each phase opens
                self.flush()
            self._show(done, info)
        if done % CHECK_STEPS == 0 and done < self._stage.total:
            due = time.monotonic() - self._saved_at >= self._every
            if self._world > 1:
                due = broadcast_from_rank_zero(due)
            if due:
                self.checkpoint(done)

    def flush(self) -> None:
        """Write the rows gathered so far, and theta as it stands."""
        if not self._rows:
            return
        part = f"{self._name}-{self._first:09d}"
        write_rows(self._run_dir, "steps", self._rows, part)
        last = self._rows[-1]["step"] + 1
        theta = self._theta + self._stage.distribution_rows(last)
        if theta:
            write_rows(self._run_dir, "distribution", theta, part)
        self._visit.push()
        self._rows, self._first, self._theta = [], last, []

    def checkpoint(self, step: int) -> None:
        """Save everything that the next step depends on; every rank calls this together."""
        if self._rank != 0:
            ray.train.report({"step": step})
        else:
            self.flush()
            state = {"step": step, **self._stage.state(step)}
            with tempfile.TemporaryDirectory() as folder:
                save_checkpoint(
                    Path(folder),
                    self._stage.model.state_dict(),
                    self._stage.updater.state_tensors(),
                    state,
                )
                ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder))
        self._saved_at = time.monotonic()

    def _show(self, done: int, info: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._shown_at > 0.5 or done == self._stage.total:
            self._shown_at = now
            shown = {"done": done, "total": self._stage.total, **info}
            write_json(self._run_dir / "progress" / f"{self._name}.json", shown)
            self._visit.push()
