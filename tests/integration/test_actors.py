"""The sampler actor and the ledger: restarts, repeats, stale callers, missing ranks, joined asks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.plan import build_sampler, train_plan
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.scoring.ledger import Ledger
from raycomp.runtime.training.sampler_client import ActorSampler, start_sampler
from raycomp.storage.tables import read_table


def plan_of(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    context = RunContext(parse_job(job), folder)
    plan = train_plan(context.job, context.space, context.shape, 100)
    plan["steps"] = [1, 1, 1, 1, 1, 1, 60]
    return plan


def losses(archs: list[Any]) -> list[float]:
    return [float(sum(a.ffn)) for a in archs]


@pytest.mark.parametrize("block", [1, 10])
def test_the_actor_is_the_sampler_also_across_a_kill(
    tiny_job: dict[str, Any], tmp_path: Path, block: int
) -> None:
    tiny_job["train"]["sampler_sync_steps"] = block
    plan = plan_of(tiny_job, tmp_path)
    here = build_sampler(parse_job(tiny_job), plan)
    name = f"sampler-{tmp_path.name}"
    job = parse_job(tiny_job).model_dump(mode="json")
    actor = start_sampler(name, job, plan, tmp_path / "snapshot.json")
    ray.get(actor.begin.remote("a1", 1, 0, None, 30.0))
    there = ActorSampler(actor, "a1", 0)
    for step in range(40):
        archs = there.ask(step)
        assert archs == here.ask(step)
        assert there.info(step) == here.info(step)
        if step in (23, 29):  # between asked and told; within a block of ten, and in its last step
            kill(actor)
        there.tell(step, losses(archs))
        assert there.info(step) == here.info(step)  # still of this step
        there.tell(step, [0.0] * len(archs))  # the same call again: told once
        here.tell(step, losses(archs))
        if step in (5, 19, 29):  # the tell need not be over
            assert there.probabilities(step + 1) == here.probabilities()
        if step == 12 and block == 10:
            with pytest.raises(Exception, match="step 13 is inside the block that begins at step 10"):
                there.probabilities(13)
    assert there.state(40) == here.state_dict()
    ray.kill(actor)


def kill(actor: Any) -> None:
    """Kill an actor's process, and wait until another one answers."""
    pid = ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while ray.get(actor.__ray_call__.remote(lambda self: os.getpid())) == pid:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("block", [1, 10])
def test_a_kill_while_ranks_wait_for_the_last_one_loses_nothing(
    tiny_job: dict[str, Any], tmp_path: Path, block: int
) -> None:
    tiny_job["train"]["sampler_sync_steps"] = block
    plan = plan_of(tiny_job, tmp_path)
    here = build_sampler(parse_job(tiny_job), plan)
    job = parse_job(tiny_job).model_dump(mode="json")
    actor = start_sampler(f"waiting-{tmp_path.name}", job, plan, tmp_path / "snapshot.json")
    ray.get(actor.begin.remote("a", 3, 0, None, 60.0))
    ranks = [ActorSampler(actor, "a", r) for r in range(3)]
    for step in range(20):
        asked = [r.ask(step) for r in ranks]
        assert asked[0] == asked[1] == asked[2] == here.ask(step)
        ranks[2].tell(step, losses(asked[0]))  # returns at once, though nobody else has told
        ranks[0].tell(step, losses(asked[0]))
        if step == 9:  # the last one of a block of ten
            assert eventually(lambda: ranks[0].missing(9), [1])
            kill(actor)
            assert eventually(lambda: ranks[0].missing(9), [1])  # the calls that died came again
        ranks[1].tell(step, losses(asked[0]))
        here.tell(step, [3 * x for x in losses(asked[0])])
    assert ranks[0].state(20) == here.state_dict()
    ray.kill(actor)


def eventually(ask: Callable[[], Any], wanted: Any) -> bool:
    deadline = time.monotonic() + 30
    while ask() != wanted:
        assert time.monotonic() < deadline, ask()
        time.sleep(0.05)
    return True


def test_a_stale_attempt_is_refused(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    tiny_job["train"]["sampler_sync_steps"] = 1
    plan = plan_of(tiny_job, tmp_path)
    job = parse_job(tiny_job).model_dump(mode="json")
    actor = start_sampler(f"stale-{tmp_path.name}", job, plan, tmp_path / "snapshot.json")
    fresh = build_sampler(parse_job(tiny_job), plan).state_dict()
    ray.get(actor.begin.remote("old", 1, 0, fresh, 30.0))
    old = ActorSampler(actor, "old", 0)
    old.tell(0, losses(old.ask(0)))
    old.state(1)
    ray.get(actor.begin.remote("new", 1, 0, fresh, 30.0))
    old.ask(1)  # came with the reply to its tell, before it was replaced
    for call in (old.ask, old.state, old.probabilities):
        old.tell(1, [1.0])
        with pytest.raises(Exception, match="replaced by new"):
            call(2)
        with pytest.raises(Exception, match="replaced by new"):
            call(2)
    assert ActorSampler(actor, "new", 0).ask(0)
    ray.kill(actor)


def test_a_barrier_names_the_missing_rank(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    tiny_job["train"]["sampler_sync_steps"] = 1
    plan = plan_of(tiny_job, tmp_path)
    job = parse_job(tiny_job).model_dump(mode="json")
    actor = start_sampler(f"barrier-{tmp_path.name}", job, plan, tmp_path / "snapshot.json")
    ray.get(actor.begin.remote("a", 3, 0, None, 1.0))
    ranks = [ActorSampler(actor, "a", r) for r in range(3)]
    archs = [r.ask(0) for r in ranks]
    ranks[0].tell(0, losses(archs[0]))
    ranks[2].tell(0, losses(archs[2]))
    assert eventually(lambda: ranks[0].missing(0), [1])
    for rank in (ranks[0], ranks[2]):  # each learns it from the reply to its own tell
        with pytest.raises(Exception, match="rank 1 did not"):
            rank.ask(1)
    ranks[1].tell(0, losses(archs[1]))
    assert ranks[0].ask(1) == ranks[1].ask(1) == ranks[2].ask(1)
    ray.kill(actor)


class Slow:
    """An evaluator that counts."""

    def __init__(self) -> None:
        self.count = 0

    def evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        self.count += len(archs)
        time.sleep(0.05)
        if any('"depth":3' in arch for arch in archs):
            raise ValueError("this one fails")
        return [
            {
                "arch_id": "x", "arch": arch, "split": split, "precision": precision,
                "metric": "accuracy", "value": 0.5, "loss": 1.0, "examples": 3, "params": 1,
                "flops": 1.0, "seconds": 0.05,
            }
            for arch in archs
        ]  # fmt: skip

    def counted(self) -> int:
        return self.count


def test_the_ledger_scores_each_once_whoever_asks(tmp_path: Path) -> None:
    from raycomp.encoder.architecture import Architecture

    slow = ray.remote(Slow).options(num_cpus=0).remote()
    start = ray.remote(Ledger).options(num_cpus=0, max_concurrency=100)
    ledger = start.remote(str(tmp_path), "w", "accuracy", [slow])
    archs = [Architecture(2, (1, h), (16, k)).to_json() for h in (1, 2, 4) for k in (16, 32)]
    asked = [ledger.score.remote(archs, "selection", "fp32") for _ in range(5)]
    assert all([r["arch"] for r in rows] == archs for rows in ray.get(asked))
    assert ray.get(slow.counted.remote()) == len(archs)
    ray.get(ledger.flush.remote())
    frame = read_table(tmp_path, "evaluations")
    assert len(frame) == len(archs)
    ray.kill(ledger)


def test_a_failed_evaluation_fails_the_asker_and_can_be_asked_again(tmp_path: Path) -> None:
    from raycomp.encoder.architecture import Architecture

    slow = ray.remote(Slow).options(num_cpus=0).remote()
    ledger = ray.remote(Ledger).options(num_cpus=0).remote(str(tmp_path), "w", "accuracy", [slow])
    bad = Architecture(3, (1, 1, 1), (16, 16, 16)).to_json()
    good = Architecture(1, (1,), (16,)).to_json()
    for _ in range(2):
        with pytest.raises(Exception, match="this one fails"):
            ray.get(ledger.score.remote([bad], "selection", "fp32"))
    assert ray.get(ledger.score.remote([good], "selection", "fp32"))[0]["value"] == 0.5
    ray.kill(ledger)
