"""The ledger's queue of evaluators, with evaluators that are no actors."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from raycomp.encoder.arch import Architecture
from raycomp.runtime.ledger import Ledger


class Evaluator:
    """Starts when its event is set."""

    def __init__(self, started: asyncio.Event) -> None:
        self._started = started
        self.asked: list[str] = []
        self.__ray_ready__ = SimpleNamespace(remote=started.wait)
        self.evaluate = SimpleNamespace(remote=self._evaluate)

    async def _evaluate(self, arch: str, split: str, precision: str) -> dict[str, Any]:
        assert self._started.is_set()
        self.asked.append(arch)
        return {"arch_id": Architecture.from_json(arch).id, "arch": arch, "split": split,
                "precision": precision, "metric": "accuracy", "value": 0.5}  # fmt: skip


def test_an_evaluator_that_has_not_started_holds_nothing_up(tmp_path: Path) -> None:
    async def play() -> tuple[int, int]:
        here, waiting = asyncio.Event(), asyncio.Event()
        here.set()
        ready, late = Evaluator(here), Evaluator(waiting)
        ledger = Ledger(str(tmp_path), "w", "accuracy", [ready, late])
        archs = [Architecture(1, (h,), (k,)).to_json() for h in (1, 2, 4) for k in (16, 32)]
        rows = await asyncio.wait_for(ledger.score(archs, "selection", "fp32"), 10)
        assert [r["arch"] for r in rows] == archs
        before = len(late.asked)
        waiting.set()
        more = [Architecture(2, (h, h), (k, k)).to_json() for h in (1, 2, 4) for k in (16, 32)]
        await asyncio.wait_for(ledger.score(more, "selection", "fp32"), 10)
        return before, len(late.asked)

    before, after = asyncio.run(play())
    assert before == 0
    assert after > 0
