"""The ledger: each architecture is scored once, whoever asks.

One actor. It answers from the rows on storage, joins requests that wait for the same architecture,
and hands the rest to evaluator actors.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raycomp.encoder.arch import Architecture
from raycomp.tables import part_files, read_json, read_table, write_json, write_rows

Key = tuple[str, str, str, str, str]


class Ledger:
    """The only way to a score."""

    def __init__(self, run_dir: str, weights_id: str, metric: str, evaluators: list[Any]) -> None:
        self._run_dir = Path(run_dir)
        self._metric = metric
        self._weights_id = weights_id
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        for actor in evaluators:
            self._free.put_nowait(actor)
        self._known: dict[Key, dict[str, Any]] = {}
        self._coming: dict[Key, asyncio.Future[dict[str, Any]]] = {}
        self._new: list[dict[str, Any]] = []
        self._flushed_at = time.monotonic()
        for row in read_table(self._run_dir, "evaluations").to_dict("records"):
            known = {str(k): v for k, v in row.items()}
            self._known[self._key(known)] = known

    async def score(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        """Return one row per architecture (JSON), in order; new ones are evaluated now."""
        return await asyncio.gather(*(self._one(a, split, precision) for a in archs))

    async def count(self) -> int:
        """Return how many architectures are scored with these weights."""
        return sum(key[0] == self._weights_id for key in self._known)

    async def flush(self) -> None:
        """Write every new row."""
        rows, self._new = self._new, []
        self._flushed_at = time.monotonic()
        if rows:
            write_rows(self._run_dir, "evaluations", rows, f"ledger-{uuid.uuid4().hex[:12]}")
            record_parts(self._run_dir)

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


def record_parts(run_dir: Path) -> None:
    """Write which files of evaluations there are, so that one that goes missing is noticed."""
    names = [p.name for p in part_files(run_dir, "evaluations")]
    write_json(run_dir / "search" / "parts.json", {"evaluations": names})


def lost_parts(run_dir: Path) -> list[str]:
    """Return the files of evaluations that were written and are gone, by name."""
    path = run_dir / "search" / "parts.json"
    known = read_json(path).get("evaluations", []) if path.exists() else []
    return sorted(set(known) - {p.name for p in part_files(run_dir, "evaluations")})
