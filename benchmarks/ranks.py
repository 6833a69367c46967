"""Two workers as Ray actors with one CPU each, joined by gloo like the ranks of a training."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist

from benchmarks.measure import NotMeasurableError
from benchmarks.workload import (
    ROOT,
    demo_context,
    make_supernet_step,
    spread_over_lengths,
    whole_space_sampler,
)
from raycomp.data.batches import Batch, collate, shard, words_of
from raycomp.runtime.cluster.connect import start_local_cluster
from raycomp.runtime.training.all_reduce import FlatAllReduce

WORLD = 2
MATRIX_SIZE = 256


@contextmanager
def local_ray() -> Iterator[None]:
    """Start a quiet Ray with two CPUs on this machine; its processes can import the benchmarks."""
    start_local_cluster(
        num_cpus=WORLD,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    for name in ("ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def start_two_ranks(rank_type: type[Rank] | None = None) -> Iterator[list[Any]]:
    """Start Ray on this machine, and two ranks; yield their actors.

    Args:
        rank_type: Subclass of Rank to start instead of it.

    Raises:
        NotMeasurableError: This process may use only one CPU.
    """
    if len(os.sched_getaffinity(0)) < WORLD:
        raise NotMeasurableError("two workers need two processors")
    with local_ray(), tempfile.TemporaryDirectory() as folder:
        meeting_file = str(Path(folder) / "meeting")
        actor_type = ray.remote(num_cpus=1)(rank_type or Rank)
        yield [actor_type.remote(rank, meeting_file) for rank in range(WORLD)]


class Rank:
    """One worker: its process group, its network, and the measurements on it.

    Args:
        rank: Number of the worker, from 0.
        meeting_file: File over which the workers find each other.
    """

    def __init__(self, rank: int, meeting_file: str) -> None:
        torch.set_num_threads(1)
        self.rank = rank
        dist.init_process_group("gloo", init_method=f"file://{meeting_file}", rank=rank, world_size=WORLD)

    def prepare(self, batch_size: int, num_batches: int, grow: bool = False) -> dict[int, int]:
        """Load data and network, and make the steps of one worker and of two.

        Args:
            batch_size: Sentences of a batch, over all workers.
            num_batches: Number of batches.
            grow: Whether two workers have batches that are twice as large.

        Returns:
            Number of workers -> sentences of all batches.
        """
        self.context = demo_context('train.mode="explore"')
        self.tokens = self.context.tokens("train")
        self.batches: dict[int, list[np.ndarray]] = {}
        for world in (1, WORLD):
            rows = batch_size * world if grow else batch_size
            self.batches[world] = spread_over_lengths(self.tokens.lengths, rows, num_batches)

        network = self.context.network()
        # Exploration is uniform and does not change the architecture distribution. Both ranks sample
        # the same architectures without an actor.
        self.steps = {
            world: make_supernet_step(
                network,
                whole_space_sampler(self.context),
                "fp32",
                torch.device("cpu"),
                reduce=FlatAllReduce() if world > 1 else None,
            )
            for world in (1, WORLD)
        }
        self.num_steps = dict.fromkeys(self.steps, 0)
        return {world: sum(map(len, batches)) for world, batches in self.batches.items()}

    def train(self, world: int) -> float:
        """Train on this rank's share of all batches; return seconds."""
        if world > 1:
            dist.barrier()
        started = time.perf_counter()
        for rows in self.batches[world]:
            self.run_step(world, self.make_batch(rows, world))
        return time.perf_counter() - started

    def make_batch(self, rows: np.ndarray, world: int) -> Batch:
        """Return this rank's share of a batch of `world` workers."""
        pad_id = self.context.pad_id
        if world == 1:
            return collate(self.tokens, shard(rows, 0, 1), pad_id, total=len(rows))
        own_rows = shard(rows, self.rank, world)
        token_ids = words_of(self.tokens, rows, pad_id)
        return collate(self.tokens, own_rows, pad_id, total=len(rows), words=token_ids)

    def run_step(self, world: int, batch: Batch) -> None:
        """Run the next step of `world` workers."""
        self.steps[world](self.num_steps[world], batch)
        self.num_steps[world] += 1

    def update_share(self) -> float:
        """Return the share of a step of two workers that comes after its losses are told.

        This is the all-reduce and the update, without the time in which a rank waits for the other.
        """
        updater = self.steps[WORLD].updater
        apply = updater.apply_slices
        update_seconds = 0.0
        wait_seconds = 0.0

        def timed_apply(*args: Any) -> None:
            nonlocal update_seconds, wait_seconds
            arrived = time.perf_counter()
            dist.barrier()
            started = time.perf_counter()
            apply(*args)
            update_seconds += time.perf_counter() - started
            wait_seconds += started - arrived

        self.train(WORLD)  # warms up
        updater.apply_slices = timed_apply  # type: ignore[method-assign,assignment]
        total_seconds = self.train(WORLD)
        updater.apply_slices = apply  # type: ignore[method-assign]
        return update_seconds / (total_seconds - wait_seconds)

    def calibrate(self, seconds: float) -> int:
        """Return the number of matrix products that take `seconds` on this CPU."""
        self.matrix = torch.randn(MATRIX_SIZE, MATRIX_SIZE)
        self._multiply(20)  # warms up
        count = 200
        started = time.perf_counter()
        self._multiply(count)
        elapsed = time.perf_counter() - started
        return max(1, round(seconds * count / elapsed))

    def steps_with(
        self, make_sampler: Any, first_step: int, num_steps: int, products: int, update_share: float
    ) -> float:
        """Return the seconds of steps with a given number of matrix products and one all-reduce.

        A step is in the order of `SupernetStep`: ask, work, tell, all-reduce, and the rest of the work.

        Args:
            make_sampler: Function from a rank to its sampler; None runs the steps without a sampler.
            first_step: Index of the first step.
            num_steps: Number of steps.
            products: Matrix products of a step.
            update_share: Share of the products after the losses are told.
        """
        sampler = make_sampler(self.rank) if make_sampler is not None else None
        products_after = round(products * update_share)
        number = torch.zeros(1)

        dist.barrier()
        started = time.perf_counter()
        for step in range(first_step, first_step + num_steps):
            archs = sampler.ask(step) if sampler is not None else []
            self._multiply(products - products_after)
            if sampler is not None:
                sampler.tell(step, [1.0 + i for i in range(len(archs))])
            dist.all_reduce(number)
            self._multiply(products_after)
        return time.perf_counter() - started

    def _multiply(self, count: int) -> None:
        for _ in range(count):
            self.matrix @ self.matrix
