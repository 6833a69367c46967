"""Evaluators that die, never start or fail: others get their work, or an error names the cause."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.runtime.scoring import deployment_search, evaluation_queue, evaluator_pool
from raycomp.runtime.scoring.evaluation_queue import EvaluatorNeeds
from raycomp.runtime.scoring.ledger import Ledger, PoolStatus
from raycomp.storage.layout import RunLayout

ARCHS = [Architecture(1, (h,), (k,)).to_json() for h in range(1, 5) for k in range(10, 20)]
FATAL = Architecture(3, (1, 1, 1), (16, 16, 16))
"""An architecture on which evaluators fail."""


class FakeEvaluator:
    """An evaluator in this process whose faults a test chooses.

    Args:
        starts: What each start of its process does: None runs, an error is raised.
        faults: What the passes do, in order: None computes, an error is raised. Later passes compute.
    """

    def __init__(
        self, starts: list[Exception | None] | None = None, faults: list[Exception | None] | None = None
    ) -> None:
        self.starts = starts or []
        self.faults = faults or []
        self.passes: list[list[str]] = []
        self.__ray_ready__ = SimpleNamespace(remote=self._start)
        self.evaluate = SimpleNamespace(remote=self._evaluate)

    async def _start(self) -> bool:
        await asyncio.sleep(0)
        fault = self.starts.pop(0) if self.starts else None
        if fault is not None:
            raise fault
        return True

    async def _evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        self.passes.append(archs)
        await asyncio.sleep(0.001)
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        return [
            {"arch_id": Architecture.from_json(arch).id, "arch": arch, "split": split,
             "precision": precision, "metric": "accuracy", "value": 0.5}
            for arch in archs
        ]  # fmt: skip


class FatalArchEvaluator(FakeEvaluator):
    """An evaluator that fails on FATAL.

    Args:
        error: What it raises then.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def _evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        if FATAL.to_json() in archs:
            self.faults = [self.error]
        return await super()._evaluate(archs, split, precision)


def score(
    run_dir: Path,
    evaluators: list[Any],
    requests: list[list[str]],
    needs: EvaluatorNeeds | None = None,
) -> tuple[list[Any], PoolStatus]:
    """Send requests one after the other; return each reply or error, and the state of the pool."""

    async def send() -> tuple[list[Any], PoolStatus]:
        ledger = Ledger(str(run_dir), "w", "accuracy", evaluators, needs=needs)
        replies: list[Any] = []
        for archs in requests:
            call: Awaitable[Any] = ledger.score(archs, "selection", "fp32")
            replies += await asyncio.gather(asyncio.wait_for(call, 10), return_exceptions=True)
        return replies, await ledger.describe_pool()

    return asyncio.run(send())


@pytest.mark.parametrize(
    "make_dead",
    [
        # It never starts.
        lambda: FakeEvaluator(starts=[ActorDiedError()]),
        # It dies in its first pass, and its process cannot be started again.
        lambda: FakeEvaluator(starts=[None, ActorDiedError()], faults=[ActorDiedError()]),
    ],
)
def test_one_dead_evaluator_of_eight_takes_no_work(
    tmp_path: Path, make_dead: Callable[[], FakeEvaluator]
) -> None:
    dead = make_dead()
    others = [FakeEvaluator() for _ in range(7)]
    # The dead one is at each place in the list: the pool must not depend on the order.
    for position in range(8):
        dead = make_dead()
        evaluators = [*others[:position], dead, *others[position:]]
        replies, status = score(tmp_path / str(position), evaluators, [ARCHS, ARCHS[:1]])
        assert [row["arch"] for row in replies[0]] == ARCHS
        assert len(dead.passes) <= 1
        assert status.num_left == 7
        assert len(status.losses) == 1


def test_an_evaluator_that_ray_starts_again_gets_work_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator_pool, "RESTART_POLL_SECONDS", 0.001)
    restarting: list[Exception | None] = [ActorUnavailableError("it restarts", None) for _ in range(3)]
    only = FakeEvaluator(starts=[None, *restarting], faults=[ActorDiedError()])
    replies, status = score(tmp_path, [only], [ARCHS[:4]])
    assert [row["arch"] for row in replies[0]] == ARCHS[:4]
    assert status.num_left == 1

    # The pass that failed had four architectures; each of them was then scored without company.
    assert [len(archs) for archs in only.passes] == [4, 1, 1, 1, 1]
    (trace,) = RunLayout(tmp_path).errors.glob("evaluator-*.txt")
    assert "died" in trace.read_text()


@pytest.mark.parametrize("error", [ValueError("out of memory"), ActorDiedError()])
def test_an_architecture_that_fails_on_two_evaluators_is_named(tmp_path: Path, error: Exception) -> None:
    evaluators = [FatalArchEvaluator(error) for _ in range(4)]
    archs = [*ARCHS, FATAL.to_json()]
    # The second request does not try it again.
    replies, status = score(tmp_path, evaluators, [archs, [FATAL.to_json()], ARCHS])

    tries = [archs for one in evaluators for archs in one.passes if FATAL.to_json() in archs]
    assert len(tries) == 2
    assert min(len(archs) for archs in tries) == 1
    for reply in replies[:2]:
        assert isinstance(reply, UserError)
        assert f"Architecture {FATAL.id} of depth 3 cannot be scored, because 2 evaluators" in str(reply)
        assert str(RunLayout(tmp_path).errors) in str(reply)
        assert str(reply).endswith(
            ". If memory was short, lower search.evaluators or search.max_tokens. Then run the same "
            "command again: the scores so far are kept."
        )

    # The others have scores, and no evaluator is lost.
    assert [row["arch"] for row in replies[2]] == ARCHS
    assert status.num_left == 4


def test_the_only_evaluator_finds_out_which_architecture_is_at_fault(tmp_path: Path) -> None:
    only = FatalArchEvaluator(ValueError("this one fails"))
    replies, _ = score(tmp_path, [only], [[*ARCHS[:5], FATAL.to_json()], ARCHS[:5]])
    assert f"Architecture {FATAL.id} of depth 3 cannot be scored, because 1 evaluator" in str(replies[0])
    assert [row["arch"] for row in replies[1]] == ARCHS[:5]


def test_an_evaluator_that_fails_always_is_lost(tmp_path: Path) -> None:
    """Such as one whose GPU has a fault: it replies at once, and would take all work."""
    broken = FakeEvaluator(faults=[RuntimeError("CUDA error")] * 100)
    others = [FakeEvaluator() for _ in range(3)]
    requests = [ARCHS[i : i + 8] for i in range(0, len(ARCHS), 8)]
    replies, status = score(tmp_path, [broken, *others], requests)
    assert [[row["arch"] for row in reply] for reply in replies] == requests
    assert len(broken.passes) == evaluator_pool.MAX_FAILURES
    assert status.losses == ["CUDA error"]


class HangingEvaluator(FakeEvaluator):
    """An evaluator that never replies to its second pass. A kill ends it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_killed = False

    async def _evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        rows = await super()._evaluate(archs, split, precision)
        if len(self.passes) == 2 and not self.is_killed:
            await asyncio.Event().wait()
        return rows


def test_an_evaluator_that_hangs_is_killed_and_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = HangingEvaluator()
    kills: list[bool] = []

    def kill(actor: HangingEvaluator, no_restart: bool) -> None:
        actor.is_killed = True
        kills.append(no_restart)

    monkeypatch.setattr(evaluator_pool.ray, "kill", kill)
    needs = EvaluatorNeeds(1.0, 0.0, 0.2)
    replies, status = score(tmp_path, [hanging], [ARCHS[:2], ARCHS[2:4]], needs)
    assert [[row["arch"] for row in reply] for reply in replies] == [ARCHS[:2], ARCHS[2:4]]
    assert kills == [False]
    assert status.num_left == 1


def test_without_evaluators_the_message_has_the_cause(tmp_path: Path) -> None:
    cause = ActorDiedError()
    cause.error_msg = "The actor died.\nraycomp.errors.UserError: PyTorch sees no CUDA device there."
    evaluators = [FakeEvaluator(starts=[cause]) for _ in range(2)]
    replies, status = score(tmp_path, evaluators, [ARCHS, ARCHS])
    for reply in replies:
        assert str(reply) == (
            "No evaluator is left: PyTorch sees no CUDA device there. Correct this, then run the same "
            "command again: the scores so far are kept."
        )
    assert status.num_left == 0


def test_evaluators_that_fit_on_no_node_end_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only node with a GPU is gone, and Ray would wait for another one without limit."""
    monkeypatch.setattr(evaluator_pool, "RESTART_POLL_SECONDS", 0.01)
    slots = 1
    monkeypatch.setattr(evaluation_queue, "count_worker_slots", lambda cpus, gpus: slots)

    def lost_evaluator() -> FakeEvaluator:
        restarting = [ActorUnavailableError("it restarts", None) for _ in range(10_000)]
        return FakeEvaluator(starts=[None, *restarting], faults=[ActorDiedError()])

    # A node has room in principle, so the search waits.
    needs = EvaluatorNeeds(0.9, 1.0, 0.1)
    assert isinstance(score_for(0.5, tmp_path / "a", lost_evaluator(), needs), TimeoutError)

    slots = 0
    reply = score_for(5, tmp_path / "b", lost_evaluator(), needs)
    assert "No evaluator runs, and for 0.1 s no node of the cluster had the 0.9 CPUs and 1 GPUs" in str(
        reply
    )


def score_for(seconds: float, run_dir: Path, evaluator: FakeEvaluator, needs: EvaluatorNeeds) -> Any:
    """Return the reply to a request, or the error; a TimeoutError if there is none after some seconds."""

    async def send() -> list[Any]:
        ledger = Ledger(str(run_dir), "w", "accuracy", [evaluator], needs=needs)
        call = ledger.score(ARCHS[:2], "selection", "fp32")
        replies = await asyncio.gather(asyncio.wait_for(call, seconds), return_exceptions=True)
        assert (await ledger.describe_pool()).missing is not None
        return replies

    (reply,) = asyncio.run(send())
    return reply


class SilentEvaluator(FakeEvaluator):
    """An evaluator whose first process never replies. A kill ends it."""

    is_killed = False

    async def _evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        if not self.is_killed:
            await asyncio.Event().wait()
        return await super()._evaluate(archs, split, precision)


def test_an_evaluator_that_hangs_in_the_first_pass_is_killed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other pass says how long one takes, so the limit is generous."""
    silent = SilentEvaluator()

    def kill(actor: SilentEvaluator, no_restart: bool) -> None:
        actor.is_killed = True

    monkeypatch.setattr(evaluator_pool.ray, "kill", kill)
    monkeypatch.setattr(evaluator_pool, "FIRST_PASS_FACTOR", 10)
    replies, status = score(tmp_path, [silent], [ARCHS[:2]], EvaluatorNeeds(1.0, 0.0, 0.01))
    assert [row["arch"] for row in replies[0]] == ARCHS[:2]
    assert status.num_left == 1
    assert status.first_pass_seconds == 0.0


class StuckLoader(FakeEvaluator):
    """An evaluator whose process starts, and whose first loads never end: its storage does not answer.

    Args:
        num_stuck: Number of these loads.
    """

    def __init__(self, num_stuck: int) -> None:
        super().__init__()
        self.num_loads = 0
        self._num_stuck = num_stuck
        self.load = SimpleNamespace(remote=self._load)

    async def _load(self) -> None:
        self.num_loads += 1
        if self.num_loads <= self._num_stuck:
            await asyncio.Event().wait()


@pytest.mark.parametrize("num_stuck", [2, 100])
def test_an_evaluator_that_hangs_while_it_loads_does_not_stop_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_stuck: int
) -> None:
    kills: list[bool] = []
    monkeypatch.setattr(evaluator_pool.ray, "kill", lambda actor, no_restart: kills.append(no_restart))
    stuck = StuckLoader(num_stuck)
    replies, status = score(tmp_path, [stuck], [ARCHS[:2]], EvaluatorNeeds(1.0, 0.0, 0.002))
    # The process is started again, as often as after a failed pass.
    assert kills == [False, False]
    if num_stuck == 2:
        assert [row["arch"] for row in replies[0]] == ARCHS[:2]
        assert status.num_left == 1
    else:
        assert str(replies[0]).startswith(
            "No evaluator is left: it did not load the super-network within"
        )
        assert stuck.num_loads == evaluator_pool.MAX_FAILURES


def test_a_process_that_dies_while_it_loads_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator_pool, "RESTART_POLL_SECONDS", 0.0)
    dying = StuckLoader(0)
    faults: list[Exception] = [ActorUnavailableError("it restarts", None), ActorDiedError()]

    async def load() -> None:
        if faults:
            raise faults.pop()

    dying.load = SimpleNamespace(remote=load)
    replies, status = score(tmp_path, [dying], [ARCHS[:2]])
    assert [row["arch"] for row in replies[0]] == ARCHS[:2]
    assert status.losses == []


def test_a_search_without_a_score_says_so_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    seconds = 0.0
    status = lambda: PoolStatus(1, None, [], seconds)  # noqa: E731
    ledger = SimpleNamespace(describe_pool=SimpleNamespace(remote=status))
    fake_ray = SimpleNamespace(get=lambda reply, timeout: reply, exceptions=evaluator_pool.ray.exceptions)
    monkeypatch.setattr(deployment_search, "ray", fake_ray)
    watcher = deployment_search._PoolWatcher(ledger, lines.append)
    for second in range(0, 1000, 10):
        seconds = float(second)
        watcher.update()
    assert [re.findall(r"\d+ s", line) for line in lines] == [["120 s"], ["240 s"], ["480 s"], ["960 s"]]
    assert lines[0].startswith("search waits for its first score")


def test_the_pool_says_how_long_the_first_pass_has_taken(tmp_path: Path) -> None:
    async def ask() -> tuple[float, float]:
        ledger = Ledger(str(tmp_path), "w", "accuracy", [SilentEvaluator()], needs=None)
        idle = (await ledger.describe_pool()).first_pass_seconds
        call = asyncio.create_task(ledger.score(ARCHS[:1], "selection", "fp32"))
        await asyncio.sleep(0.02)
        busy = (await ledger.describe_pool()).first_pass_seconds
        call.cancel()
        return idle, busy

    idle, busy = asyncio.run(ask())
    assert idle == 0.0
    assert 0.0 < busy < 5.0
