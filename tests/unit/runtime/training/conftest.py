"""The sampler actor in this process: its calls arrive in the order that a test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.methods.yoco.eesng import EESNG
from raycomp.methods.yoco.plan import build_sampler
from raycomp.runtime.training import sampler_actor
from raycomp.runtime.training.sampler_actor import SamplerActor
from tests.integration.test_actors import losses, plan_of

MakeActor = Callable[[], SamplerActor]
PHASE_STEPS = [1, 1, 1, 1, 1, 1, 20]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_actor, "LATE_SECONDS", 0.1)


@pytest.fixture(params=[1])
def job(request: pytest.FixtureRequest, tiny_job: dict[str, Any]) -> dict[str, Any]:
    """A job with blocks of `request.param` steps; one step unless a test says more."""
    return {**tiny_job, "train": {**tiny_job["train"], "sampler_sync_steps": request.param}}


@pytest.fixture
def plan(job: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return {**plan_of(job, tmp_path), "steps": PHASE_STEPS}


@pytest.fixture
def snapshot_path(tmp_path: Path) -> Path:
    return tmp_path / "snapshot.json"


@pytest.fixture
def make_actor(job: dict[str, Any], plan: dict[str, Any], snapshot_path: Path) -> MakeActor:
    """Return a function that starts or restarts the actor, which has only the snapshot."""
    return lambda: SamplerActor(job, plan, str(snapshot_path))


@pytest.fixture
def sampler(job: dict[str, Any], plan: dict[str, Any]) -> EESNG:
    """The same sampler without an actor, as the reference."""
    return build_sampler(parse_job(job), plan)


def rank_shares(archs: list[Architecture], world_size: int) -> list[list[float]]:
    """Return the share of each rank of the losses of a step. Their sums are exact in floating point."""
    return [[loss * (rank + 1) / 4 for loss in losses(archs)] for rank in range(world_size)]


def sum_shares(shares: list[list[float]]) -> list[float]:
    return [sum(arch_shares) for arch_shares in zip(*shares, strict=True)]


async def tell_block(actor: SamplerActor, step: int, *step_shares: list[list[float]]) -> list[Any]:
    """Let all ranks tell a block at the same time, the last one first.

    Args:
        actor: The actor.
        step: First step of the block.
        step_shares: For each step of the block, the shares of all ranks.

    Returns:
        The replies, the last rank's first.
    """
    calls = [
        actor.tell("a", rank, step, list(rank_losses))
        for rank, rank_losses in enumerate(zip(*step_shares, strict=True))
    ]
    return list(await asyncio.gather(*reversed(calls)))


def expected_block(sampler: EESNG, step: int) -> Any:
    """Return the block that begins at a step, in the form of the actor."""
    steps = range(step, sampler.block_end(step))
    return step, [([arch.to_json() for arch in sampler.ask(s)], sampler.info(s)) for s in steps]


async def advance(actor: SamplerActor, sampler: EESNG, step: int, world_size: int = 1) -> None:
    """Tell the losses of a block of one step to the actor and to the reference."""
    shares = rank_shares(sampler.ask(step), world_size)
    await tell_block(actor, step, shares)
    sampler.tell(step, sum_shares(shares))
