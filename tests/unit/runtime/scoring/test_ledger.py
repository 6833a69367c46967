"""The ledger, with evaluators in this process instead of actors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.runtime.scoring.evaluation_queue import MAX_BATCH
from raycomp.runtime.scoring.ledger import Ledger
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table, write_rows


@dataclass(frozen=True)
class Method:
    """A method of an actor."""

    remote: Callable[..., Awaitable[list[dict[str, Any]]]]


async def start_at_once() -> bool:
    """The reply of an actor that runs."""
    return True


class EvaluatorPool:
    """Some evaluators that record each pass. An architecture of depth 3 raises an error."""

    def __init__(self, num_evaluators: int) -> None:
        self.passes: list[list[Architecture]] = []
        self.evaluate = Method(self._evaluate)
        self.__ray_ready__ = SimpleNamespace(remote=start_at_once)
        self.actors = [self] * num_evaluators

    async def _evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        architectures = [Architecture.from_json(text) for text in archs]
        self.passes.append(architectures)
        await asyncio.sleep(0.01)
        if any(arch.depth == 3 for arch in architectures):
            raise ValueError("this one fails")
        return [
            {
                "arch_id": arch.id, "arch": arch.to_json(), "split": split, "precision": precision,
                "metric": "accuracy", "value": arch.ffn[0] / 100, "loss": 1.0, "examples": 3,
                "params": 1, "flops": 1.0, "seconds": 0.1,
            }
            for arch in architectures
        ]  # fmt: skip


def make_ledger(tmp_path: Path, pool: EvaluatorPool) -> Ledger:
    return Ledger(str(tmp_path), "w", "accuracy", pool.actors)


def make_archs(heads: range, ffn: range) -> list[str]:
    """Return architectures in an order in which neighbours differ from the first layer on."""
    return [Architecture(2, (h, 4), (16, k)).to_json() for k in ffn for h in heads]


def test_architectures_with_equal_first_layers_share_a_pass(tmp_path: Path) -> None:
    """There are two different first layers and two evaluators: each gets one of them."""
    pool = EvaluatorPool(2)
    ledger = make_ledger(tmp_path, pool)
    asyncio.run(ledger.score(make_archs(range(1, 3), range(16, 64, 16)), "selection", "fp32"))

    assert [[arch.heads[0] for arch in batch] for batch in pool.passes] == [[1, 1, 1], [2, 2, 2]]


def test_callers_share_evaluations_and_get_rows_in_their_own_order(tmp_path: Path) -> None:
    pool = EvaluatorPool(2)
    ledger = make_ledger(tmp_path, pool)
    archs = make_archs(range(1, 3), range(1, 101))
    requests = [archs, archs[::-1], archs[50:60], archs[:3] + archs[:3]]

    async def score_all() -> list[list[dict[str, Any]]]:
        calls = [ledger.score(request, "selection", "fp32") for request in requests]
        replies = await asyncio.gather(*calls)
        await ledger.score(archs[:2], "selection", "bf16")

        scores = await ledger.list_scores()
        assert len(scores) == 202
        assert await ledger.list_scores(200) == scores[200:]
        await ledger.flush()
        return replies

    replies = asyncio.run(score_all())
    assert [[row["arch"] for row in reply] for reply in replies] == requests
    assert sum(len(batch) for batch in pool.passes) == 202
    assert max(len(batch) for batch in pool.passes) == MAX_BATCH

    # A new ledger has the rows from the table.
    restarted = make_ledger(tmp_path, EvaluatorPool(1))
    assert sorted(asyncio.run(restarted.list_scores())) == sorted(asyncio.run(ledger.list_scores()))
    assert len(read_table(tmp_path, "evaluations")) == 202


def test_a_cancelled_caller_does_not_cancel_the_others(tmp_path: Path) -> None:
    pool = EvaluatorPool(1)
    ledger = make_ledger(tmp_path, pool)
    archs = make_archs(range(1, 2), range(1, 3))

    async def cancel_first() -> list[dict[str, Any]]:
        first = asyncio.create_task(ledger.score(archs, "selection", "fp32"))
        second = asyncio.create_task(ledger.score(archs, "selection", "fp32"))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert [row["arch"] for row in asyncio.run(cancel_first())] == archs
    assert len(pool.passes) == 1


class SlowStarter:
    """An evaluator that has started when its event is set."""

    def __init__(self, has_started: asyncio.Event) -> None:
        self._has_started = has_started
        self.archs: list[str] = []
        self.__ray_ready__ = SimpleNamespace(remote=has_started.wait)
        self.evaluate = SimpleNamespace(remote=self._evaluate)

    async def _evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        assert self._has_started.is_set()
        self.archs += archs
        return [
            {"arch_id": Architecture.from_json(arch).id, "arch": arch, "split": split,
             "precision": precision, "metric": "accuracy", "value": 0.5}
            for arch in archs
        ]  # fmt: skip


def test_an_evaluator_that_has_not_started_does_not_block_the_others(tmp_path: Path) -> None:
    async def score_before_and_after_start() -> tuple[int, int]:
        started = asyncio.Event()
        started.set()
        not_started = asyncio.Event()
        ready = SlowStarter(started)
        late = SlowStarter(not_started)
        ledger = Ledger(str(tmp_path), "w", "accuracy", [ready, late])

        first = [Architecture(1, (h,), (k,)).to_json() for h in (1, 2, 4) for k in (16, 32)]
        rows = await asyncio.wait_for(ledger.score(first, "selection", "fp32"), 10)
        assert [row["arch"] for row in rows] == first
        num_before = len(late.archs)

        not_started.set()
        second = [Architecture(2, (h, h), (k, k)).to_json() for h in (1, 2, 4) for k in (16, 32)]
        await asyncio.wait_for(ledger.score(second, "selection", "fp32"), 10)
        return num_before, len(late.archs)

    num_before, num_after = asyncio.run(score_before_and_after_start())
    assert num_before == 0
    assert num_after > 0


def test_rows_that_cannot_be_written_fail_the_callers_and_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = make_ledger(tmp_path, EvaluatorPool(1))
    # The ledger writes rows as soon as they arrive.
    monkeypatch.setattr(ledger, "_flush_time", -1e9)
    is_full = True

    def write(*args: Any) -> Path:
        if is_full:
            raise UserError("no space left")
        return write_rows(*args)

    monkeypatch.setattr("raycomp.runtime.scoring.ledger.write_rows", write)
    archs = make_archs(range(1, 3), range(1, 3))

    async def score_on_full_disk() -> None:
        nonlocal is_full
        with pytest.raises(UserError, match="no space left"):
            await ledger.score(archs, "selection", "fp32")
        is_full = False
        await ledger.flush()

    asyncio.run(score_on_full_disk())
    assert len(read_table(tmp_path, "evaluations")) == 4


def test_an_outcome_is_written_after_the_rows_of_its_method(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "w", "accuracy", EvaluatorPool(1).actors, method="other")
    outcome = {"budget": "half", "searcher": "sng", "seed": 0, "value": 0.5}

    async def score_and_record() -> None:
        await ledger.score(make_archs(range(1, 2), range(1, 2)), "selection", "fp32")
        await ledger.record_outcome(outcome)

    asyncio.run(score_and_record())
    assert RunLayout(tmp_path).method("other").search_outcome("half", "sng", 0).exists()
    assert set(read_table(tmp_path, "evaluations")["method"]) == {"other"}
