"""The ledger: each architecture is scored once, whoever asks.

One actor. It answers from the rows on storage, joins requests that wait for the same architecture,
and hands the rest to evaluator actors, together those that begin alike: an evaluator computes once
what they share.
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
from raycomp.storage.tables import part_files, read_table, write_rows

Key = tuple[str, str, str, str, str]
Kind = tuple[str, str]
"""Split and precision: what one pass over the data has in common."""

MAX_BATCH = 64  # architectures a pass: more share little more, and rows and progress come later


class Ledger:
    """The only way to a score."""

    # Evaluators are given by name: what else an actor is made from must outlive it to be made again.
    def __init__(self, run_dir: str, weights_id: str, metric: str, evaluators: list[Any]) -> None:
        self._run_dir = Path(run_dir)
        self._metric = metric
        self._weights_id = weights_id
        self._evaluators = len(evaluators)
        self._starting = list(evaluators)
        self._free: list[Any] = []
        self._known: dict[Key, dict[str, Any]] = {}
        self._coming: dict[Key, asyncio.Future[None]] = {}
        self._waiting: dict[Kind, list[Architecture]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._new: list[dict[str, Any]] = []
        self._scored: list[tuple[str, float]] = []
        self._flushed_at = time.monotonic()
        for row in read_table(self._run_dir, "evaluations").to_dict("records"):
            known = {str(k): v for k, v in row.items()}
            self._known[self._key(known)] = known
            if known["weights_id"] == weights_id:
                self._scored.append((str(known["arch"]), float(known["value"])))

    async def _join(self, evaluator: Any) -> None:
        """Use an evaluator from when it has started, which may be when another run gives its place up.

        Two runs of a study that waited for evaluators of each other would wait for ever.
        """
        actor = ray.get_actor(evaluator) if isinstance(evaluator, str) else evaluator
        with contextlib.suppress(Exception):  # what keeps it from starting, its first evaluation says
            await actor.__ray_ready__.remote()
        self._free.append(actor)
        asyncio.get_running_loop().call_soon(self._hand_out)  # after others that start at the same time

    async def score(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        """Return one row per architecture (JSON), in order; new ones are evaluated now."""
        while self._starting:
            self._keep(self._join(self._starting.pop()))
        asked = [Architecture.from_json(a) for a in archs]
        keys = [self._key_of(a.id, (split, precision)) for a in asked]
        for arch, key in zip(asked, keys, strict=True):
            if key not in self._known and key not in self._coming:
                self._coming[key] = asyncio.get_running_loop().create_future()
                self._waiting.setdefault((split, precision), []).append(arch)
        coming = {k: self._coming[k] for k in keys if k not in self._known}
        self._hand_out()
        # Shielded: one asker that goes away must not take the others' answer along.
        await asyncio.gather(*(asyncio.shield(f) for f in coming.values()))
        return [self._known[key] for key in keys]

    async def list_scores(self, since: int = 0) -> list[tuple[str, float]]:
        """Return architecture (JSON) and score of all that is scored with these weights, in order.

        Args:
            since: how many of them the caller has; the further ones are returned.
        """
        return self._scored[since:]

    async def flush(self) -> None:
        """Write every new row."""
        rows, self._flushed_at = list(self._new), time.monotonic()
        if rows:
            write_rows(self._run_dir, "evaluations", rows, f"ledger-{uuid.uuid4().hex[:12]}")
            del self._new[: len(rows)]  # only now: what cannot be written is kept
            record_parts(self._run_dir)

    async def record_outcome(self, outcome: dict[str, Any]) -> None:
        """Write what a trial of the search found, its rows first: who finds it asks for none of them.

        Args:
            outcome: with budget, searcher and seed, which name the trial.
        """
        await self.flush()
        name = [outcome[k] for k in ("budget", "searcher", "seed")]
        write_json(outcome_path(self._run_dir, *name), outcome)

    def _hand_out(self) -> None:
        """Give every free evaluator its share of what waits."""
        while self._free and self._waiting:
            kind = next(iter(self._waiting))
            # Neighbours in this order share the most layers.
            waiting = sorted(self._waiting.pop(kind), key=_beginning)
            share = min(MAX_BATCH, math.ceil(len(waiting) / self._evaluators))
            while self._free and waiting:
                self._keep(self._pass(self._free.pop(), waiting[:share], kind))
                waiting = waiting[share:]
            if waiting:
                self._waiting[kind] = waiting

    async def _pass(self, actor: Any, archs: list[Architecture], kind: Kind) -> None:
        """Have some architectures evaluated and answer who waits for them."""
        keys = [self._key_of(a.id, kind) for a in archs]
        try:
            found = await actor.evaluate.remote([a.to_json() for a in archs], *kind)
            for key, row in zip(keys, found, strict=True):
                self._record(key, row)
            if len(self._new) >= 256 or time.monotonic() - self._flushed_at > 2:
                await self.flush()  # a storage that is full fails who asked
            for key in keys:
                self._coming[key].set_result(None)
        except Exception as error:
            for future in (self._coming[key] for key in keys):
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # nobody may be waiting any more: mark it as seen
        finally:
            for key in keys:
                del self._coming[key]
            self._free.append(actor)
            self._hand_out()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task and hold it: the loop itself holds none."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _record(self, key: Key, row: dict[str, Any]) -> None:
        """Complete an evaluator's row and keep it."""
        row = {
            **row,
            "run": self._run_dir.name,
            "method": "yoco",
            "weights_id": self._weights_id,
            "created_at": datetime.now(UTC),
        }
        self._known[key] = row
        self._new.append(row)
        self._scored.append((str(row["arch"]), float(row["value"])))

    def _key_of(self, arch_id: str, kind: Kind) -> Key:
        split, precision = kind
        return (self._weights_id, arch_id, split, precision, self._metric)

    @staticmethod
    def _key(row: dict[str, Any]) -> Key:
        return (
            row["weights_id"], row["arch_id"], row["split"], row["precision"], row["metric"],
        )  # fmt: skip


def _beginning(arch: Architecture) -> list[tuple[int, int]]:
    return list(zip(arch.heads, arch.ffn, strict=True))


def outcome_path(run_dir: Path, budget: str, searcher: str, seed: int) -> Path:
    """Return where a trial's outcome lies."""
    return run_dir / "search" / f"{budget}.{searcher}.{seed}.json"


def record_parts(run_dir: Path) -> None:
    """Write which files of the search's evaluations there are: one that goes missing is noticed."""
    write_json(run_dir / "search" / "parts.json", {"evaluations": _parts(run_dir)})


def missing_parts(run_dir: Path) -> list[str]:
    """Return the files of the search's evaluations that were written and are gone, by name."""
    path = run_dir / "search" / "parts.json"
    known = read_json(path).get("evaluations", []) if path.exists() else []
    return sorted(set(_searched(known)) - set(_parts(run_dir)))


def _parts(run_dir: Path) -> list[str]:
    return _searched([p.name for p in part_files(run_dir, "evaluations")])


def _searched(names: list[str]) -> list[str]:
    return [n for n in names if not n.startswith("adabert-")]
