"""The sampler actor and the ledger on Ray: restarts, repeated calls, old attempts, missing ranks."""

from __future__ import annotations

import copy
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.eesng import EESNG
from raycomp.methods.yoco.plan import build_sampler, train_plan
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.scoring.ledger import Ledger
from raycomp.runtime.training.sampler_client import ActorSampler, start_sampler
from raycomp.storage.tables import read_table


def plan_of(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the plan of a training with short phases. It depends on the job only, so it is made once."""
    key = json.dumps(job)
    if key not in _plans:
        context = RunContext(parse_job(job), folder)
        _plans[key] = train_plan(context.job, context.space, context.shape, 100)
    return {**copy.deepcopy(_plans[key]), "steps": [1, 1, 1, 1, 1, 1, 60]}


_plans: dict[str, dict[str, Any]] = {}


def losses(archs: list[Architecture]) -> list[float]:
    """Return a loss for each architecture that depends on its size only."""
    return [float(sum(arch.ffn)) for arch in archs]


def start_actor(job: dict[str, Any], folder: Path, block_steps: int) -> tuple[Any, EESNG]:
    """Start the sampler actor, and return it with the same sampler in this process."""
    job["train"]["sampler_sync_steps"] = block_steps
    plan = plan_of(job, folder)
    parsed = parse_job(job)
    name = f"sampler-{folder.name}"
    actor = start_sampler(name, parsed.model_dump(mode="json"), plan, folder / "snapshot.json")
    return actor, build_sampler(parsed, plan)


def kill_process(actor: Any) -> None:
    """Kill the process of an actor, and wait until another process has replaced it."""
    pid = process_of(actor)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while process_of(actor) == pid:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def process_of(actor: Any) -> int:
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))


def wait_until_equal(ask: Callable[[], Any], expected: Any) -> bool:
    """Ask again and again until the answer is the expected one."""
    deadline = time.monotonic() + 30
    while (answer := ask()) != expected:
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("block_steps", [1, 10])
def test_the_actor_computes_what_the_sampler_computes_also_across_kills(
    tiny_job: dict[str, Any], tmp_path: Path, block_steps: int
) -> None:
    actor, reference = start_actor(tiny_job, tmp_path, block_steps)
    ray.get(actor.begin.remote("a1", 1, 0, None, 30.0))
    client = ActorSampler(actor, "a1", 0)

    for step in range(40):
        archs = client.ask(step)
        assert archs == reference.ask(step)
        assert client.info(step) == reference.info(step)
        # Between ask and tell: inside a block of ten steps, and in its last step.
        if step in (23, 29):
            kill_process(actor)

        client.tell(step, losses(archs))
        assert client.info(step) == reference.info(step), "it is still that of this step"
        # The second call for a step is ignored.
        client.tell(step, [0.0] * len(archs))
        reference.tell(step, losses(archs))

        # `tell` may not have ended yet.
        if step in (5, 19, 29):
            assert client.probabilities(step + 1) == reference.probabilities()
        if step == 12 and block_steps == 10:
            with pytest.raises(Exception, match="step 13 is inside the block that begins at step 10"):
                client.probabilities(13)

    assert client.state(40) == reference.state_dict()
    ray.kill(actor)


@pytest.mark.parametrize("block_steps", [1, 10])
def test_a_kill_while_ranks_wait_for_the_last_one_loses_nothing(
    tiny_job: dict[str, Any], tmp_path: Path, block_steps: int
) -> None:
    actor, reference = start_actor(tiny_job, tmp_path, block_steps)
    ray.get(actor.begin.remote("a", 3, 0, None, 60.0))
    ranks = [ActorSampler(actor, "a", rank) for rank in range(3)]

    for step in range(20):
        archs = [rank.ask(step) for rank in ranks]
        assert archs[0] == archs[1] == archs[2] == reference.ask(step)

        # These calls return at once, although rank 1 has not told its losses.
        ranks[2].tell(step, losses(archs[0]))
        ranks[0].tell(step, losses(archs[0]))
        # Step 9 is the last one of a block of ten.
        if step == 9:
            assert wait_until_equal(lambda: ranks[0].missing(9), [1])
            kill_process(actor)
            # Ray has repeated the calls that were lost with the actor.
            assert wait_until_equal(lambda: ranks[0].missing(9), [1])
        ranks[1].tell(step, losses(archs[0]))
        reference.tell(step, [3 * loss for loss in losses(archs[0])])

    assert ranks[0].state(20) == reference.state_dict()
    ray.kill(actor)


def test_an_old_attempt_is_refused(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    actor, reference = start_actor(tiny_job, tmp_path, 1)
    initial_state = reference.state_dict()
    ray.get(actor.begin.remote("old", 1, 0, initial_state, 30.0))
    old = ActorSampler(actor, "old", 0)
    old.tell(0, losses(old.ask(0)))
    old.state(1)

    ray.get(actor.begin.remote("new", 1, 0, initial_state, 30.0))
    # The reply to the call of `tell` had these architectures before the attempt was replaced.
    old.ask(1)
    for call in (old.ask, old.state, old.probabilities):
        old.tell(1, [1.0])
        for _ in range(2):
            with pytest.raises(Exception, match="replaced by new"):
                call(2)

    assert ActorSampler(actor, "new", 0).ask(0)
    ray.kill(actor)


def test_a_late_rank_is_named(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    actor, _ = start_actor(tiny_job, tmp_path, 1)
    ray.get(actor.begin.remote("a", 3, 0, None, 1.0))
    ranks = [ActorSampler(actor, "a", rank) for rank in range(3)]
    archs = [rank.ask(0) for rank in ranks]
    ranks[0].tell(0, losses(archs[0]))
    ranks[2].tell(0, losses(archs[2]))
    assert wait_until_equal(lambda: ranks[0].missing(0), [1])

    # Each rank gets the error with the reply to its own call of `tell`.
    for rank in (ranks[0], ranks[2]):
        with pytest.raises(Exception, match="rank 1 did not"):
            rank.ask(1)

    ranks[1].tell(0, losses(archs[1]))
    assert ranks[0].ask(1) == ranks[1].ask(1) == ranks[2].ask(1)
    ray.kill(actor)


class SlowEvaluator:
    """An evaluator that counts architectures. One of depth 3 raises an error."""

    def __init__(self) -> None:
        self.num_evaluated = 0

    def evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        self.num_evaluated += len(archs)
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

    def count(self) -> int:
        return self.num_evaluated


def test_the_ledger_scores_each_architecture_once(tmp_path: Path) -> None:
    evaluator = ray.remote(SlowEvaluator).options(num_cpus=0).remote()
    ledger_class = ray.remote(Ledger).options(num_cpus=0, max_concurrency=100)
    ledger = ledger_class.remote(str(tmp_path), "w", "accuracy", [evaluator])
    archs = [Architecture(2, (1, h), (16, k)).to_json() for h in (1, 2, 4) for k in (16, 32)]

    calls = [ledger.score.remote(archs, "selection", "fp32") for _ in range(5)]
    for rows in ray.get(calls):
        assert [row["arch"] for row in rows] == archs
    assert ray.get(evaluator.count.remote()) == len(archs)

    ray.get(ledger.flush.remote())
    assert len(read_table(tmp_path, "evaluations")) == len(archs)
    ray.kill(ledger)


def test_a_failed_evaluation_fails_the_caller_and_can_be_repeated(tmp_path: Path) -> None:
    evaluator = ray.remote(SlowEvaluator).options(num_cpus=0).remote()
    ledger_class = ray.remote(Ledger).options(num_cpus=0)
    ledger = ledger_class.remote(str(tmp_path), "w", "accuracy", [evaluator])
    failing = Architecture(3, (1, 1, 1), (16, 16, 16)).to_json()
    valid = Architecture(1, (1,), (16,)).to_json()

    for _ in range(2):
        with pytest.raises(Exception, match="this one fails"):
            ray.get(ledger.score.remote([failing], "selection", "fp32"))
    (row,) = ray.get(ledger.score.remote([valid], "selection", "fp32"))
    assert row["value"] == 0.5
    ray.kill(ledger)
