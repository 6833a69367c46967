"""The ledger and its evaluators: each architecture is scored once, whoever asks.

The ledger is one actor. It answers from the rows on storage, joins requests that wait for the same
architecture, and hands the rest to evaluator actors, which hold the super-network once each.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from raycomp.encoder.arch import Architecture
from raycomp.job import parse_job
from raycomp.runtime.cluster import free_cpus, free_gpus, ray
from raycomp.runtime.recipe import Workplace
from raycomp.tables import read_table, write_rows
from raycomp.train.evaluate import predict, score

Key = tuple[str, str, str, str, str]


class Evaluator:
    """Holds the super-network and the splits, and scores one architecture at a time."""

    def __init__(self, job: dict[str, Any], run_dir: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._place = Workplace(parse_job(job), Path(run_dir))
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = self._place.supernet().to(self._device).eval()

    def evaluate(self, arch: str, split: str, precision: str) -> dict[str, Any]:
        """Return the row of table `evaluations` for one architecture, without the run's columns."""
        began, place = time.perf_counter(), self._place
        value = Architecture.from_json(arch)
        tokens = place.tokens(split)
        logits = predict(
            lambda batch: self._model(batch, value).logits,
            tokens,
            pad_id=place.pad_id,
            max_tokens=place.job.search.max_tokens,
            precision=precision,
            device=self._device,
        )
        result = score(place.metrics, tokens, logits)
        cost = place.costs()
        return {
            "arch_id": value.id,
            "arch": arch,
            "split": split,
            "precision": precision,
            "metric": place.primary,
            "value": result.values[place.primary],
            "loss": result.loss,
            "examples": result.examples,
            "params": int(cost.cost("params", value)),
            "flops": float(cost.cost("flops", value)),
            "seconds": time.perf_counter() - began,
        }


class Ledger:
    """The only way to a score."""

    def __init__(self, job: dict[str, Any], run_dir: str, weights_id: str, evaluators: list[Any]) -> None:
        self._run_dir = Path(run_dir)
        self._metric = Workplace(parse_job(job), self._run_dir).primary
        self._weights_id = weights_id
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        for actor in evaluators:
            self._free.put_nowait(actor)
        self._known: dict[Key, dict[str, Any]] = {}
        self._coming: dict[Key, asyncio.Future[dict[str, Any]]] = {}
        self._new: list[dict[str, Any]] = []
        self._fresh = 0
        self._flushed_at = time.monotonic()
        for row in read_table(self._run_dir, "evaluations").to_dict("records"):
            known = {str(k): v for k, v in row.items()}
            self._known[self._key(known)] = known

    async def score(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        """Return one row per architecture (JSON), in order; new ones are evaluated now."""
        return await asyncio.gather(*(self._one(a, split, precision) for a in archs))

    async def fresh(self) -> int:
        """Return how many evaluations this ledger has run itself."""
        return self._fresh

    async def flush(self) -> None:
        """Write every new row."""
        rows, self._new = self._new, []
        self._flushed_at = time.monotonic()
        if rows:
            write_rows(self._run_dir, "evaluations", rows, f"ledger-{uuid.uuid4().hex[:12]}")

    async def _one(self, arch: str, split: str, precision: str) -> dict[str, Any]:
        ids = {"weights_id": self._weights_id, "arch_id": Architecture.from_json(arch).id}
        key = self._key({**ids, "split": split, "precision": precision, "metric": self._metric})
        if key in self._known:
            return self._known[key]
        if key in self._coming:
            return await asyncio.shield(self._coming[key])
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._coming[key] = future
        try:
            row = await self._evaluate(arch, split, precision)
        except BaseException as error:
            if not future.cancelled():
                future.set_exception(error)
                future.exception()  # nobody else may be waiting: mark it as seen
            raise
        finally:
            del self._coming[key]
        row = {
            **row,
            "run": self._run_dir.name,
            "method": "yoco",
            "weights_id": self._weights_id,
            "created_at": datetime.now(UTC),
        }
        self._known[key] = row
        self._new.append(row)
        self._fresh += 1
        future.set_result(row)
        if len(self._new) >= 256 or time.monotonic() - self._flushed_at > 2:
            await self.flush()
        return row

    async def _evaluate(self, arch: str, split: str, precision: str) -> dict[str, Any]:
        actor = await self._free.get()
        try:
            return await actor.evaluate.remote(arch, split, precision)
        finally:
            self._free.put_nowait(actor)

    @staticmethod
    def _key(row: dict[str, Any]) -> Key:
        return (
            row["weights_id"], row["arch_id"], row["split"], row["precision"], row["metric"],
        )  # fmt: skip


def start_ledger(job: dict[str, Any], run_dir: Path, weights_id: str) -> tuple[Any, list[Any]]:
    """Start evaluators over the cluster's free CPUs or GPUs, and the ledger in front of them."""
    settings = parse_job(job).search
    gpus = settings.gpus or (1.0 if free_gpus() else 0.0)
    slots = int(free_gpus() / gpus) if gpus else free_cpus()
    count = settings.evaluators or max(1, slots)
    cpus = max(1, free_cpus() // count)
    evaluators = [
        ray.remote(Evaluator)
        .options(
            # A tenth stays free: trials ask for a sliver each, and would wait for ever without it.
            num_cpus=0.9 * free_cpus() / count,
            num_gpus=gpus,
            max_restarts=3,
            max_task_retries=3,
        )
        .remote(job, str(run_dir), cpus)
        for _ in range(count)
    ]
    ledger = (
        ray.remote(Ledger)
        .options(num_cpus=0, max_concurrency=10_000)
        .remote(job, str(run_dir), weights_id, evaluators)
    )
    return ledger, evaluators
