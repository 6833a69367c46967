"""The ledger is the evaluation cache of a run: one actor that scores each architecture once.

Every score of the deployment search comes from it, so a score is paid for once, by whichever budget,
searcher or rerun asks first. The calls, in order:

1. `start_scoring` starts the evaluators and the ledger. The ledger reads the rows of earlier starts
from the
   table `evaluations`.
2. A trial calls `score`. Rows that exist are the answer. For the others the ledger collects the
requests of
   all trials, and gives each free evaluator a batch. A request for an architecture that is already being
   evaluated waits for that evaluation.
3. An evaluator replies. The ledger adds the rows to its cache, writes new rows to the table every two
seconds
   (before it answers), and answers all trials that wait for them.
4. A trial calls `record_outcome` when it ends. The ledger first writes all new rows, then the outcome: a
   trial with an outcome has all its rows in the table.
5. The driver calls `flush` when the search has ended.

If the actor dies, Ray starts it again. Rows that were not written yet are lost. Calls without a reply are
repeated by Ray, and each trial asks for all its architectures once more before it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raycomp.encoder.architecture import Architecture
from raycomp.runtime.cluster.connect import ray
from raycomp.storage.files import read_json, write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import part_files, read_table, write_rows

CacheKey = tuple[str, str, str, str, str]
"""What a score is a function of: weights, architecture, split, precision and metric."""

PassKind = tuple[str, str]
"""Split and precision, which all architectures of one pass over the data share."""

MAX_BATCH = 64
"""Architectures in one pass. More would share hardly more computation, and delay rows and progress."""

FLUSH_SECONDS = 2.0
FLUSH_ROWS = 256


class Ledger:
    """Scores each architecture once; `start_scoring` starts it as an actor.

    Example:
        >>> rows = ray.get(ledger.score.remote([arch.to_json()], "selection", "fp32"))  # doctest: +SKIP
        >>> rows[0]["value"]  # doctest: +SKIP
        0.874
    """

    def __init__(
        self,
        run_dir: str,
        weights_id: str,
        metric: str,
        evaluators: list[Any],
        method: str = "yoco",
    ) -> None:
        """Read the rows that exist.

        Args:
            run_dir: The run directory.
            weights_id: Hash of the super-network's weights.
            metric: Name of the metric.
            evaluators: Names of the evaluator actors. Names, because the arguments of an actor must
                outlive it: Ray uses them to start it again.
            method: Name of the method that searches.
        """
        self._run_dir = Path(run_dir)
        self._metric = metric
        self._method = method
        self._weights_id = weights_id

        # An evaluator is starting, busy or free.
        self._num_evaluators = len(evaluators)
        self._starting = list(evaluators)
        self._free: list[Any] = []

        # An architecture is waiting for an evaluator, then pending, then in the cache.
        self._cache: dict[CacheKey, dict[str, Any]] = {}
        self._pending: dict[CacheKey, asyncio.Future[None]] = {}
        self._waiting: dict[PassKind, list[Architecture]] = {}

        self._tasks: set[asyncio.Task[None]] = set()
        self._unwritten: list[dict[str, Any]] = []
        self._scores: list[tuple[str, float]] = []
        self._flush_time = time.monotonic()

        for record in read_table(self._run_dir, "evaluations").to_dict("records"):
            row = {str(column): value for column, value in record.items()}
            self._cache[_row_key(row)] = row
            if row["weights_id"] == weights_id:
                self._scores.append((str(row["arch"]), float(row["value"])))

    async def score(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        """Return one row of the table `evaluations` for each architecture.

        Args:
            archs: Architectures as JSON.
            split: Name of the split.
            precision: Precision of the computation, such as "fp32".

        Returns:
            Rows in the order of `archs`. Architectures without a score are evaluated now.
        """
        self._await_evaluators()
        kind = (split, precision)
        architectures = [Architecture.from_json(text) for text in archs]
        keys = [self._key_of(arch.id, kind) for arch in architectures]

        # Register all requests before any of them is dispatched: batches then become as large as
        # possible.
        for arch, key in zip(architectures, keys, strict=True):
            if key not in self._cache and key not in self._pending:
                self._pending[key] = asyncio.get_running_loop().create_future()
                self._waiting.setdefault(kind, []).append(arch)

        pending = {key: self._pending[key] for key in keys if key not in self._cache}
        self._dispatch()
        # Shielded: if one caller is cancelled, the others must still get their answer.
        await asyncio.gather(*(asyncio.shield(future) for future in pending.values()))
        return [self._cache[key] for key in keys]

    async def list_scores(self, start: int = 0) -> list[tuple[str, float]]:
        """Return architecture (JSON) and score of all evaluations with these weights, in order.

        Args:
            start: Number of scores that the caller has. Only the later ones are returned.
        """
        return self._scores[start:]

    async def flush(self) -> None:
        """Write all new rows to the table `evaluations`."""
        rows = list(self._unwritten)
        self._flush_time = time.monotonic()
        if not rows:
            return

        write_rows(self._run_dir, "evaluations", rows, f"ledger-{uuid.uuid4().hex[:12]}")
        # After the write: if the storage is full, the rows must not be lost.
        del self._unwritten[: len(rows)]
        record_parts(self._run_dir)

    async def record_outcome(self, outcome: dict[str, Any]) -> None:
        """Write the outcome of a search trial, after all rows that it relies on.

        Args:
            outcome: Fields of `deployment_search.Outcome`.
        """
        await self.flush()
        files = RunLayout(self._run_dir).method(self._method)
        path = files.search_outcome(outcome["budget"], outcome["searcher"], outcome["seed"])
        write_json(path, outcome)

    def _await_evaluators(self) -> None:
        """Use each evaluator from the moment when it has started.

        It may have to wait until another run of a study releases its resources. The ledger must not wait
        with it: two runs that wait for each other's evaluators would wait forever.
        """
        while self._starting:
            self._start_task(self._add_evaluator(self._starting.pop()))

    async def _add_evaluator(self, evaluator: Any) -> None:
        actor = ray.get_actor(evaluator) if isinstance(evaluator, str) else evaluator
        # If it cannot start, its first evaluation raises the error.
        with contextlib.suppress(Exception):
            await actor.__ray_ready__.remote()
        self._free.append(actor)
        # Not at once: evaluators that start at the same time share the requests.
        asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Give each free evaluator a batch of the waiting architectures."""
        while self._free and self._waiting:
            kind = next(iter(self._waiting))
            # An evaluator computes the common first layers of a batch once. In this order neighbours
            # share the most layers.
            waiting = sorted(self._waiting.pop(kind), key=_layer_sizes)
            batch_size = min(MAX_BATCH, math.ceil(len(waiting) / self._num_evaluators))

            while self._free and waiting:
                batch = waiting[:batch_size]
                waiting = waiting[batch_size:]
                self._start_task(self._evaluate(self._free.pop(), batch, kind))
            if waiting:
                self._waiting[kind] = waiting

    async def _evaluate(self, actor: Any, archs: list[Architecture], kind: PassKind) -> None:
        """Let an evaluator score a batch, and answer all callers that wait for it."""
        keys = [self._key_of(arch.id, kind) for arch in archs]
        try:
            rows = await actor.evaluate.remote([arch.to_json() for arch in archs], *kind)
            for key, row in zip(keys, rows, strict=True):
                self._add_row(key, row)

            is_late = time.monotonic() - self._flush_time > FLUSH_SECONDS
            if is_late or len(self._unwritten) >= FLUSH_ROWS:
                # Before the answer: if the storage is full, the callers get the error.
                await self.flush()

            for key in keys:
                self._pending[key].set_result(None)
        except Exception as error:
            for key in keys:
                future = self._pending[key]
                if not future.done():
                    future.set_exception(error)
                    # Read it once, or asyncio warns if no caller is left that waits for this future.
                    future.exception()
        finally:
            for key in keys:
                del self._pending[key]
            self._free.append(actor)
            self._dispatch()

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task and keep a reference to it, because the event loop itself does not."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _add_row(self, key: CacheKey, row: dict[str, Any]) -> None:
        """Add the columns of the run to an evaluator's row, and put it into the cache."""
        complete_row = {
            **row,
            "run": self._run_dir.name,
            "method": self._method,
            "weights_id": self._weights_id,
            "created_at": datetime.now(UTC),
        }
        self._cache[key] = complete_row
        self._unwritten.append(complete_row)
        self._scores.append((str(row["arch"]), float(row["value"])))

    def _key_of(self, arch_id: str, kind: PassKind) -> CacheKey:
        split, precision = kind
        return self._weights_id, arch_id, split, precision, self._metric


def _row_key(row: dict[str, Any]) -> CacheKey:
    return row["weights_id"], row["arch_id"], row["split"], row["precision"], row["metric"]


def _layer_sizes(arch: Architecture) -> list[tuple[int, int]]:
    return list(zip(arch.heads, arch.ffn, strict=True))


def record_parts(run_dir: Path) -> None:
    """Record the names of the search's files of `evaluations`: a later start notices a lost one."""
    names = _search_parts([path.name for path in part_files(run_dir, "evaluations")])
    write_json(RunLayout(run_dir).evaluation_parts, {"evaluations": names})


def missing_parts(run_dir: Path) -> list[str]:
    """Return the names of the search's files of the table `evaluations` that are lost."""
    path = RunLayout(run_dir).evaluation_parts
    recorded: list[str] = []
    if path.exists():
        recorded = read_json(path).get("evaluations", [])

    present = {file.name for file in part_files(run_dir, "evaluations")}
    return sorted(set(_search_parts(recorded)) - present)


def _search_parts(names: list[str]) -> list[str]:
    """Return the files that a ledger wrote; methods write rows of their own to the same table."""
    return [name for name in names if name.startswith("ledger-")]
