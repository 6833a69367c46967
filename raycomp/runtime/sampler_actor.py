"""The EE-SNG distribution and its controller as a Ray actor, and the workers' client of it.

Calls over Ray are at-least-once and a restarted actor has only its constructor. So every answer is
a function of one snapshot on the run's storage, written before the reply: a call that comes twice
changes nothing, a call of an attempt that was replaced is refused, a missing worker is named.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raycomp.encoder.arch import Architecture
from raycomp.errors import UserError
from raycomp.jobfile import parse_job
from raycomp.runtime.cluster import ray
from raycomp.runtime.recipe import build_sampler
from raycomp.tables import write_json


class StaleAttempt(RuntimeError):
    """The caller belongs to an attempt that was replaced; it must end."""


class BarrierTimeout(RuntimeError):
    """Not every worker arrived in time."""


class SamplerHost:
    """Holds one sampler for `world` workers; wrapped by `ray.remote` where it is started."""

    def __init__(self, job: dict[str, Any], plan: dict[str, Any], snapshot: str) -> None:
        self._sampler = build_sampler(parse_job(job), plan)
        self._path = Path(snapshot)
        self._attempt = ""
        self._world = 1
        self._told: dict[str, list[float]] = {}
        self._step = 0  # the first step that is not told yet
        self._timeout = 300.0
        self._arrived = asyncio.Condition()
        self._infos: dict[int, dict[str, Any]] = {}
        if self._path.exists():
            self._restore(json.loads(self._path.read_text()))

    async def begin(
        self, attempt: str, world: int, step: int, state: dict[str, Any] | None, timeout: float
    ) -> None:
        """Open an attempt at `step`, from the state that the checkpoint holds; fence older ones."""
        if attempt == self._attempt:
            return  # the same call again, after a restart of the actor
        if state is not None:
            self._sampler.load_state_dict(state)
        elif self._step != step:
            raise StaleAttempt(f"no state was given for step {step}; the sampler is at {self._step}")
        self._attempt, self._world, self._step = attempt, world, step
        self._told, self._timeout, self._infos = {}, timeout, {}
        self._save()

    async def ask(self, attempt: str, step: int) -> tuple[list[str], dict[str, Any]]:
        """Return the architectures of a step (JSON) and its info, once the step before is told."""
        self._check(attempt)
        await self._barrier(attempt, step)
        archs = self._sampler.ask(step)
        self._infos = {step: self._sampler.info(step)}
        return [a.to_json() for a in archs], self._infos[step]

    async def tell(self, attempt: str, rank: int, step: int, losses: list[float]) -> None:
        """Take one worker's share of the losses; the last share of a step updates theta."""
        self._check(attempt)
        if step < self._step:
            return  # told before: the reply was lost, not the update
        self._told[str(rank)] = losses
        if len(self._told) == self._world:
            # Shares are added in the order of ranks: the sum must not depend on who came first.
            self._sampler.ask(step)  # a restart in between forgot the draw: the same one is made again
            shares = [self._told[str(r)] for r in range(self._world)]
            self._sampler.tell(step, [sum(parts) for parts in zip(*shares, strict=True)])
            self._told, self._step = {}, step + 1
        self._save()
        async with self._arrived:
            self._arrived.notify_all()

    async def state(self, attempt: str, step: int) -> dict[str, Any]:
        """Return the sampler's state between step-1 and step, for a checkpoint."""
        self._check(attempt)
        await self._barrier(attempt, step)
        return self._sampler.state_dict()

    async def probabilities(self) -> list[tuple[str, str, float]]:
        """Return theta as rows (variable, choice, probability)."""
        return self._sampler.probabilities()

    async def _barrier(self, attempt: str, step: int) -> None:
        async with self._arrived:
            try:
                await asyncio.wait_for(
                    self._arrived.wait_for(lambda: self._step >= step or attempt != self._attempt),
                    self._timeout,
                )
            except TimeoutError:
                missing = [r for r in range(self._world) if str(r) not in self._told]
                raise BarrierTimeout(
                    f"step {self._step}: rank {', '.join(map(str, missing))} did not hand in its "
                    f"losses within {self._timeout:g} s"
                ) from None
        self._check(attempt)
        if step != self._step:
            raise StaleAttempt(f"step {step} was asked for; the sampler is at step {self._step}")

    def _check(self, attempt: str) -> None:
        if attempt != self._attempt:
            raise StaleAttempt(f"attempt {attempt} was replaced by {self._attempt}")

    def _save(self) -> None:
        data = {
            "attempt": self._attempt,
            "world": self._world,
            "step": self._step,
            "timeout": self._timeout,
            "told": self._told,
            "sampler": self._sampler.state_dict(),
        }
        write_json(self._path, data)

    def _restore(self, data: dict[str, Any]) -> None:
        try:
            self._sampler.load_state_dict(data["sampler"])
            self._attempt, self._world = data["attempt"], data["world"]
            self._step, self._told, self._timeout = data["step"], data["told"], data["timeout"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self._path} is no snapshot of this run ({error})") from None


class ActorSampler:
    """The Sampler that a worker holds: the same three calls, answered by the actor."""

    def __init__(self, actor: Any, attempt: str, rank: int) -> None:
        self._actor = actor
        self._attempt = attempt
        self._rank = rank
        self._info: dict[int, dict[str, Any]] = {}

    def ask(self, step: int) -> list[Architecture]:
        """Return the architectures of a step."""
        texts, info = ray.get(self._actor.ask.remote(self._attempt, step))
        self._info = {step: info}
        return [Architecture.from_json(t) for t in texts]

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Hand in this worker's share of the losses."""
        ray.get(self._actor.tell.remote(self._attempt, self._rank, step, list(losses)))

    def info(self, step: int) -> dict[str, Any]:
        """Return what the sampler said of this step when it was asked."""
        return self._info[step]

    def state(self, step: int) -> dict[str, Any]:
        """Return the sampler's state before `step`."""
        return ray.get(self._actor.state.remote(self._attempt, step))


def start_sampler(name: str, job: dict[str, Any], plan: dict[str, Any], snapshot: Path) -> Any:
    """Start the named, restartable actor of a run, or find the one that runs."""
    return (
        ray.remote(SamplerHost)
        .options(
            name=name,
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=1000,
        )
        .remote(job, plan, str(snapshot))
    )
