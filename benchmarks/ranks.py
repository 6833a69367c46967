"""Two workers as Ray actors, each with one processor, joined by gloo: what a training's ranks are."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
from raycomp.data.batches import collate, shard, words_of
from raycomp.runtime.cluster.connect import start_local_cluster
from raycomp.runtime.training.all_reduce import FlatAllReduce

WORLD = 2


@contextmanager
def local_ray() -> Iterator[None]:
    """Start a quiet Ray with two processors in this machine, whose processes find these files."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    start_local_cluster(num_cpus=WORLD, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}, **quiet)
    for noisy in ("ray.train", "ray.tune"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def start_two_ranks(kind: type[Rank] | None = None) -> Iterator[list[Any]]:
    """Start Ray in this machine and two ranks on it, of a class of their own where one is given.

    Raises:
        NotMeasurableError: this process may use one processor alone.
    """
    if len(os.sched_getaffinity(0)) < WORLD:
        raise NotMeasurableError("two workers need two processors")
    with local_ray(), tempfile.TemporaryDirectory() as folder:
        start = ray.remote(num_cpus=1)(kind or Rank)
        yield [start.remote(i, str(Path(folder) / "meeting")) for i in range(WORLD)]


class Rank:
    """One worker: its process group, its network, and what is measured on it."""

    def __init__(self, rank: int, meeting: str) -> None:
        torch.set_num_threads(1)
        self.rank = rank
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD)
        self.loops = 0

    def prepare(self, batch_size: int, batches: int, grow: bool = False) -> dict[int, int]:
        """Load data and network, make the step of a worker alone and of one of two.

        Args:
            batch_size: sentences of a batch, over all workers.
            batches: how many.
            grow: two workers get batches twice as large.

        Returns:
            Sentences of all batches of one worker and of two.
        """
        self.context = demo_context('train.mode="explore"')
        self.tokens, network = self.context.tokens("train"), self.context.network()
        self.batches = {
            world: spread_over_lengths(self.tokens.lengths, batch_size * (world if grow else 1), batches)
            for world in (1, WORLD)
        }
        cpu = torch.device("cpu")
        # Uniform exploration does not move theta, so both ranks draw the same without an actor.
        self.steps = {
            world: make_supernet_step(
                network,
                whole_space_sampler(self.context),
                "fp32",
                cpu,
                reduce=FlatAllReduce() if world > 1 else None,
            )
            for world in (1, WORLD)
        }
        self.done = dict.fromkeys(self.steps, 0)
        return {world: sum(map(len, rows)) for world, rows in self.batches.items()}

    def train(self, world: int) -> float:
        """Train on this rank's share of the batches; return seconds."""
        if world > 1:
            dist.barrier()
        began = time.perf_counter()
        for rows in self.batches[world]:
            mine = shard(rows, self.rank if world > 1 else 0, world)
            batch = collate(
                self.tokens, mine, self.context.pad_id, total=len(rows),
                words=words_of(self.tokens, rows, self.context.pad_id) if world > 1 else None,
            )  # fmt: skip
            self.steps[world](self.done[world], batch)
            self.done[world] += 1
        return time.perf_counter() - began

    def update_share(self) -> float:
        """Return the share of a step of two workers that comes after its losses are told.

        That is the sum and the update; waiting for the other rank is left out.
        """
        updater, spent = self.steps[WORLD].updater, [0.0, 0.0]  # in the update, waiting for the other
        apply = updater.apply_slices

        def timed(*args: Any) -> None:
            came = time.perf_counter()
            dist.barrier()
            began = time.perf_counter()
            apply(*args)
            spent[0] += time.perf_counter() - began
            spent[1] += began - came

        self.train(WORLD)  # warms up
        updater.apply_slices = timed  # type: ignore[method-assign,assignment]
        whole = self.train(WORLD)
        updater.apply_slices = apply  # type: ignore[method-assign]
        return spent[0] / (whole - spent[1])

    def calibrate(self, seconds: float) -> int:
        """Return how many matrix products take so long here."""
        self.x = torch.randn(256, 256)
        for count in (20, 200):  # the first one warms up
            began = time.perf_counter()
            self._work(count)
            taken = time.perf_counter() - began
        return max(1, round(seconds * count / taken))

    def steps_with(self, sampler: Any, first: int, steps: int, work: int, update: float) -> float:
        """Return the seconds of steps of so much work and one sum; with a sampler, also ask and tell.

        In the order of SuperStep: ask, work, tell, a sum of one number, and the rest of the work.

        Args:
            sampler: from an actor, an attempt and a rank to what is asked and told; None for neither.
            first: index of the first step.
            steps: how many.
            work: matrix products a step.
            update: share of them that comes after the losses are told.
        """
        asked = sampler(self.rank) if sampler is not None else None
        flag = torch.zeros(1)
        dist.barrier()
        began = time.perf_counter()
        for index in range(first, first + steps):
            archs = asked.ask(index) if asked is not None else []
            last = round(work * update)
            self._work(work - last)
            if asked is not None:
                asked.tell(index, [1.0 + i for i in range(len(archs))])
            dist.all_reduce(flag)
            self._work(last)
        return time.perf_counter() - began

    def _work(self, count: int) -> None:
        for _ in range(count):
            self.x @ self.x
