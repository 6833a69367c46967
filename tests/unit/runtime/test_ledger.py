"""What the ledger hands out, with evaluators in this process in place of actors."""

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
from raycomp.runtime.scoring.ledger import MAX_BATCH, Ledger
from raycomp.storage.tables import read_table, write_rows


@dataclass(frozen=True)
class Method:
    """A method of an actor."""

    remote: Callable[..., Awaitable[list[dict[str, Any]]]]


class Pool:
    """Evaluators that note each pass; a depth of 3 fails."""

    def __init__(self, count: int) -> None:
        self.passes: list[list[Architecture]] = []
        self.evaluate = Method(self._evaluate)
        self.actors = [self] * count

    async def _evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        values = [Architecture.from_json(a) for a in archs]
        self.passes.append(values)
        await asyncio.sleep(0.01)
        if any(v.depth == 3 for v in values):
            raise ValueError("this one fails")
        return [
            {
                "arch_id": v.id, "arch": v.to_json(), "split": split, "precision": precision,
                "metric": "accuracy", "value": v.ffn[0] / 100, "loss": 1.0, "examples": 3,
                "params": 1, "flops": 1.0, "seconds": 0.1,
            }
            for v in values
        ]  # fmt: skip


def archs(heads: range, ffn: range) -> list[str]:
    """Architectures in an order in which neighbours differ from the first layer on."""
    return [Architecture(2, (h, 4), (16, k)).to_json() for k in ffn for h in heads]


def test_what_begins_alike_is_scored_together(tmp_path: Path) -> None:
    """Six architectures of two first layers, two evaluators: each gets one first layer."""
    pool = Pool(2)
    ledger = Ledger(str(tmp_path), "w", "accuracy", pool.actors)
    asyncio.run(ledger.score(archs(range(1, 3), range(16, 64, 16)), "selection", "fp32"))
    assert [[a.heads[0] for a in p] for p in pool.passes] == [[1, 1, 1], [2, 2, 2]]


def test_many_askers_are_answered_in_their_order_by_one_evaluation_each(tmp_path: Path) -> None:
    pool = Pool(2)
    ledger = Ledger(str(tmp_path), "w", "accuracy", pool.actors)
    asked = archs(range(1, 3), range(1, 101))
    orders = [asked, asked[::-1], asked[50:60], asked[:3] + asked[:3]]

    async def together() -> list[list[dict[str, Any]]]:
        rows = await asyncio.gather(*(ledger.score(o, "selection", "fp32") for o in orders))
        await ledger.score(asked[:2], "selection", "bf16")
        assert len(await ledger.list_scores()) == 202
        assert await ledger.list_scores(200) == (await ledger.list_scores())[200:]
        await ledger.flush()
        return rows

    rows = asyncio.run(together())
    assert [[r["arch"] for r in found] for found in rows] == orders
    assert sum(len(p) for p in pool.passes) == 202
    assert max(len(p) for p in pool.passes) == MAX_BATCH
    again = Ledger(str(tmp_path), "w", "accuracy", Pool(1).actors)
    assert sorted(asyncio.run(again.list_scores())) == sorted(asyncio.run(ledger.list_scores()))
    assert len(read_table(tmp_path, "evaluations")) == 202


def test_a_failed_pass_fails_its_askers_and_frees_the_evaluator(tmp_path: Path) -> None:
    pool = Pool(1)
    ledger = Ledger(str(tmp_path), "w", "accuracy", pool.actors)
    bad = Architecture(3, (1,) * 3, (16,) * 3).to_json()

    async def ask() -> None:
        for _ in range(2):  # asked again, it is evaluated again
            with pytest.raises(ValueError, match="this one fails"):
                await ledger.score([bad], "selection", "fp32")
        (row,) = await ledger.score(archs(range(1, 2), range(1, 2)), "selection", "fp32")
        assert row["weights_id"] == "w"

    asyncio.run(ask())
    assert len(pool.passes) == 3


def test_an_asker_that_goes_away_takes_no_answer_along(tmp_path: Path) -> None:
    pool = Pool(1)
    ledger = Ledger(str(tmp_path), "w", "accuracy", pool.actors)
    asked = archs(range(1, 2), range(1, 3))

    async def ask() -> list[dict[str, Any]]:
        first = asyncio.create_task(ledger.score(asked, "selection", "fp32"))
        second = asyncio.create_task(ledger.score(asked, "selection", "fp32"))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert [r["arch"] for r in asyncio.run(ask())] == asked
    assert len(pool.passes) == 1


class Late:
    """An evaluator that starts when its event is set."""

    def __init__(self, started: asyncio.Event) -> None:
        self._started = started
        self.asked: list[str] = []
        self.__ray_ready__ = SimpleNamespace(remote=started.wait)
        self.evaluate = SimpleNamespace(remote=self._evaluate)

    async def _evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        assert self._started.is_set()
        self.asked += archs
        return [
            {"arch_id": Architecture.from_json(arch).id, "arch": arch, "split": split,
             "precision": precision, "metric": "accuracy", "value": 0.5}
            for arch in archs
        ]  # fmt: skip


def test_an_evaluator_that_has_not_started_holds_nothing_up(tmp_path: Path) -> None:
    async def play() -> tuple[int, int]:
        here, waiting = asyncio.Event(), asyncio.Event()
        here.set()
        ready, late = Late(here), Late(waiting)
        ledger = Ledger(str(tmp_path), "w", "accuracy", [ready, late])
        first = [Architecture(1, (h,), (k,)).to_json() for h in (1, 2, 4) for k in (16, 32)]
        rows = await asyncio.wait_for(ledger.score(first, "selection", "fp32"), 10)
        assert [r["arch"] for r in rows] == first
        before = len(late.asked)
        waiting.set()
        more = [Architecture(2, (h, h), (k, k)).to_json() for h in (1, 2, 4) for k in (16, 32)]
        await asyncio.wait_for(ledger.score(more, "selection", "fp32"), 10)
        return before, len(late.asked)

    before, after = asyncio.run(play())
    assert before == 0
    assert after > 0


def test_rows_that_cannot_be_written_fail_who_asked_and_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(str(tmp_path), "w", "accuracy", Pool(1).actors)
    monkeypatch.setattr(ledger, "_flush_time", -1e9)
    full = True

    def write(*given: Any) -> Path:
        if full:
            raise UserError("no space left")
        return write_rows(*given)

    monkeypatch.setattr("raycomp.runtime.scoring.ledger.write_rows", write)
    asked = archs(range(1, 3), range(1, 3))

    async def ask() -> None:
        nonlocal full
        with pytest.raises(UserError, match="no space left"):
            await ledger.score(asked, "selection", "fp32")
        full = False
        await ledger.flush()

    asyncio.run(ask())
    assert len(read_table(tmp_path, "evaluations")) == 4
