"""The ledger is the evaluation cache of a run: one actor that scores each architecture once.

Every score of the deployment search comes from it, so a score is paid for once, by whichever budget,
searcher or rerun asks first. The calls, in order:

1. `start_scoring` starts the evaluators and the ledger. The ledger reads the rows of earlier starts
   from the table `evaluations`.
2. A trial calls `score`. Rows that exist are the answer. For the others the ledger collects the
   requests of all trials, and gives each free evaluator a batch (`evaluation_queue`). A request for an
   architecture that is already being evaluated waits for that evaluation.
3. An evaluator replies. The ledger adds the rows to its cache, writes new rows to the table every two
   seconds (before it answers), and answers all trials that wait for them.
4. A trial calls `record_outcome` when it ends. The ledger first writes all new rows, then the outcome: a
   trial with an outcome has all its rows in the table.
5. The driver calls `flush` when the search has ended.

If the actor dies, Ray starts it again. Rows that were not written yet are lost. Calls without a reply are
repeated by Ray, and each trial asks for all its architectures once more before it ends.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from raycomp.encoder.architecture import Architecture
from raycomp.runtime.cluster.waiting import Resources
from raycomp.runtime.scoring.evaluation_queue import EvaluationQueue, EvaluatorNeeds, PassKind, Row
from raycomp.storage.files import read_json, write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import part_files, read_table, write_rows

CacheKey = tuple[str, str, str, str, str]
"""What a score is a function of: weights, architecture, split, precision and metric."""

FLUSH_SECONDS = 2.0
FLUSH_ROWS = 256


class PoolStatus(NamedTuple):
    """What the driver tells the user about the evaluators.

    Attributes:
        num_left: Evaluators that are not lost.
        missing: What the evaluators wait for; None if one of them runs.
        losses: Why evaluators were lost, in order.
        first_pass_seconds: For how long evaluators have computed without any score; 0 after the first.
    """

    num_left: int
    missing: Resources | None
    losses: list[str]
    first_pass_seconds: float = 0.0


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
        needs: EvaluatorNeeds | None = None,
    ) -> None:
        """Read the rows that exist.

        Args:
            run_dir: The run directory.
            weights_id: Hash of the super-network's weights.
            metric: Name of the metric.
            evaluators: Names of the evaluator actors. Names, because the arguments of an actor must
                outlive it: Ray uses them to start it again.
            method: Name of the method that searches.
            needs: What an evaluator needs to start. If absent, the ledger waits without limit.
        """
        self._run_dir = Path(run_dir)
        self._metric = metric
        self._method = method
        self._weights_id = weights_id

        self._cache: dict[CacheKey, dict[str, Any]] = {}
        self._queue = EvaluationQueue(self._run_dir, evaluators, self._add_rows, needs)
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

        Raises:
            UserError: No evaluator is left, or two evaluators failed on one architecture.
        """
        kind = (split, precision)
        architectures = [Architecture.from_json(text) for text in archs]
        keys = [self._key_of(arch.id, kind) for arch in architectures]
        missing = {
            key: arch for arch, key in zip(architectures, keys, strict=True) if key not in self._cache
        }
        await self._queue.score(list(missing.values()), kind)
        return [self._cache[key] for key in keys]

    async def describe_pool(self) -> PoolStatus:
        """Return how many evaluators are left, and why others are not."""
        pool = self._queue.pool
        needs = self._queue.needs
        missing = None
        if needs is not None and not pool.num_running:
            missing = Resources(needs.cpus, needs.gpus)
        return PoolStatus(pool.num_left, missing, list(pool.losses), pool.seconds_of_first_pass)

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

    async def _add_rows(self, archs: Sequence[Architecture], kind: PassKind, rows: Sequence[Row]) -> None:
        """Add the columns of the run to an evaluator's rows, and put them into the cache."""
        for arch, row in zip(archs, rows, strict=True):
            complete_row = {
                **row,
                "run": self._run_dir.name,
                "method": self._method,
                "weights_id": self._weights_id,
                "created_at": datetime.now(UTC),
            }
            self._cache[self._key_of(arch.id, kind)] = complete_row
            self._unwritten.append(complete_row)
            self._scores.append((str(row["arch"]), float(row["value"])))

        is_late = time.monotonic() - self._flush_time > FLUSH_SECONDS
        if is_late or len(self._unwritten) >= FLUSH_ROWS:
            await self.flush()

    def _key_of(self, arch_id: str, kind: PassKind) -> CacheKey:
        split, precision = kind
        return self._weights_id, arch_id, split, precision, self._metric


def _row_key(row: dict[str, Any]) -> CacheKey:
    return row["weights_id"], row["arch_id"], row["split"], row["precision"], row["metric"]


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
