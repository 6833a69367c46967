"""The EE-SNG distribution and its controller as a Ray actor, and the workers' client of it.

Calls over Ray are at-least-once and a restarted actor has only its constructor. So every answer is
a function of one snapshot on the run's storage, appended to a file before the reply: a call that comes
twice changes nothing, a call of an attempt that was replaced is refused, a missing worker is named.

The last share of a step's losses also draws the next step, and every rank's reply carries it: no
worker waits between two steps for longer than the actor computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raycomp.encoder.arch import Architecture
from raycomp.errors import UserError
from raycomp.jobfile import parse_job
from raycomp.runtime.cluster import ray
from raycomp.runtime.recipe import build_sampler
from raycomp.tables import append_line, write_json

QUESTION_SECONDS = 10.0
SNAPSHOT_BYTES = 1 << 16
"""How long the file of snapshots may grow before it is begun again: it is copied to where a URL says."""

Drawn = tuple[list[str], dict[str, Any]]
"""The architectures of a step (JSON) and its info."""


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
        self._told: dict[int, list[float]] = {}
        self._step = 0  # the first step that is not told yet
        self._timeout = 300.0
        self._arrived = asyncio.Condition()
        self._room = 0  # bytes that may still be appended to the file of snapshots
        self._restore()
        # The sampler's state before `_step` is drawn: what a checkpoint and the snapshot hold.
        self._between = self._sampler.state_dict()
        self._drawn: Drawn | None = None

    async def begin(
        self, attempt: str, world: int, step: int, state: dict[str, Any] | None, timeout: float
    ) -> None:
        """Open an attempt at `step`, from the state that the checkpoint holds; fence older ones."""
        if attempt == self._attempt:
            return  # the same call again, after a restart of the actor
        if state is not None:
            self._sampler.load_state_dict(state)
            self._between, self._drawn = self._sampler.state_dict(), None
        elif self._step != step:
            raise StaleAttempt(f"no state was given for step {step}; the sampler is at {self._step}")
        self._attempt, self._world, self._step = attempt, world, step
        self._told, self._timeout = {}, timeout
        self._save()
        async with self._arrived:
            self._arrived.notify_all()  # who waits for an older attempt is refused now

    async def ask(self, attempt: str, step: int) -> Drawn:
        """Return the architectures of a step (JSON) and its info, once the step before is told."""
        self._check(attempt)
        await self._barrier(attempt, step)
        return self._draw()

    async def tell(self, attempt: str, rank: int, step: int, losses: list[float]) -> Drawn | None:
        """Take one worker's share of the losses; the last share of a step updates theta.

        Returns:
            What `ask` returns of the next step, once all shares are in; None after the last step.

        Raises:
            BarrierTimeout: a rank did not hand in its share in time; it is named.
            StaleAttempt: the attempt was replaced, or the snapshot is older than its workers.
        """
        self._check(attempt)
        if step > self._step:
            raise StaleAttempt(f"step {step} was told; the sampler's snapshot is of step {self._step}")
        if step == self._step:  # else told before: the reply was lost, not the update
            self._told[rank] = losses
            if len(self._told) == self._world:
                await self._update()
        await self._barrier(attempt, step + 1)
        return self._draw() if step + 1 < self._sampler.schedule.total else None

    async def state(self, attempt: str, step: int) -> dict[str, Any]:
        """Return the sampler's state between step-1 and step, for a checkpoint."""
        self._check(attempt)
        await self._barrier(attempt, step)
        return self._between

    async def probabilities(self, attempt: str, step: int) -> list[tuple[str, str, float]]:
        """Return theta between step-1 and step, as rows (variable, choice, probability)."""
        self._check(attempt)
        await self._barrier(attempt, step)
        return self._sampler.probabilities(self._between)

    async def missing(self, attempt: str, step: int) -> list[int]:
        """Return the ranks that have not handed in their losses of a step; does not wait."""
        self._check(attempt)
        return [] if step < self._step else self._absent()

    async def _update(self) -> None:
        """Tell the sampler the step whose shares are all in, save, and wake who waits for it."""
        self._sampler.ask(self._step)  # a restart in between forgot the draw: the same one is made again
        # Shares are added in the order of ranks: the sum must not depend on who came first.
        shares = [self._told[r] for r in range(self._world)]
        self._sampler.tell(self._step, [sum(parts) for parts in zip(*shares, strict=True)])
        self._told, self._step = {}, self._step + 1
        self._between, self._drawn = self._sampler.state_dict(), None
        async with self._arrived:
            try:
                self._append()
            finally:
                self._arrived.notify_all()

    def _draw(self) -> Drawn:
        if self._drawn is None:
            archs = self._sampler.ask(self._step)
            self._drawn = [a.to_json() for a in archs], self._sampler.info(self._step)
        return self._drawn

    async def _barrier(self, attempt: str, step: int) -> None:
        def open_() -> bool:
            return self._step >= step or attempt != self._attempt

        if not open_():
            async with self._arrived:
                try:
                    await asyncio.wait_for(self._arrived.wait_for(open_), self._timeout)
                except TimeoutError:
                    raise BarrierTimeout(
                        f"step {self._step}: {absent(self._absent())} within {self._timeout:g} s"
                    ) from None
        self._check(attempt)
        if step != self._step:
            raise StaleAttempt(f"step {step} was asked for; the sampler is at step {self._step}")

    def _absent(self) -> list[int]:
        return [r for r in range(self._world) if r not in self._told]

    def _check(self, attempt: str) -> None:
        if attempt == self._attempt:
            return
        if not self._attempt:
            raise StaleAttempt(f"attempt {attempt} is not open: {self._path} holds no snapshot of it")
        raise StaleAttempt(f"attempt {attempt} was replaced by {self._attempt}")

    def _save(self, *, sync: bool = True) -> None:
        """Begin the file anew with the snapshot of now."""
        write_json(self._path, self._snapshot(), compact=True, sync=sync)
        self._room = SNAPSHOT_BYTES

    def _append(self) -> None:
        """Add the snapshot of now to the file: the last whole line counts.

        Not synced: no checkpoint rests on it, and only a lost machine could tear it. A file that is
        replaced at every step would cost ten times as much.
        """
        line = json.dumps(self._snapshot(), separators=(",", ":"), allow_nan=False) + "\n"
        room, self._room = self._room - len(line), 0  # a line that fails half-way is followed by none
        if room < 0:
            self._save(sync=False)
            return
        append_line(self._path, line)
        self._room = room

    def _snapshot(self) -> dict[str, Any]:
        return {
            "attempt": self._attempt,
            "world": self._world,
            "step": self._step,
            "timeout": self._timeout,
            "sampler": self._between,
        }

    def _restore(self) -> None:
        """Take up the last whole snapshot; none where all are torn: `begin` brings all that it held."""
        data = last_whole(self._path)
        if data is None:
            return
        try:
            self._sampler.load_state_dict(data["sampler"])
            self._attempt, self._world = data["attempt"], data["world"]
            self._step, self._timeout = data["step"], data["timeout"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self._path} is no snapshot of this run ({error})") from None


def last_whole(path: Path) -> Any:
    """Return what the last line of JSON in a file holds; None where there is none."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            return json.loads(line)
    return None


class ActorSampler:
    """The Sampler that a worker holds: the same three calls, answered by the actor.

    `tell` does not wait. What it brings about is known at the next `ask`, `state` or
    `probabilities`: the next architectures, or why the step failed.
    """

    def __init__(self, actor: Any, attempt: str, rank: int) -> None:
        self._actor = actor
        self._attempt = attempt
        self._rank = rank
        self._info: dict[int, dict[str, Any]] = {}
        self._pending: tuple[int, Any] | None = None  # the step that a reply will carry, the reply
        self._next: tuple[int, Drawn | None] | None = None  # the same, once it is here

    def ask(self, step: int) -> list[Architecture]:
        """Return the architectures of a step: those that the last tell's reply carries.

        Raises:
            BarrierTimeout: a rank did not hand in its losses of the step before; it is named.
            StaleAttempt: another attempt took this one's place.
        """
        self._settle()
        ready = self._next[1] if self._next is not None and self._next[0] == step else None
        texts, info = ready or ray.get(self._actor.ask.remote(self._attempt, step))
        self._info = {step: info}
        return [Architecture.from_json(t) for t in texts]

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Hand in this worker's share of the losses; returns at once."""
        self._settle()
        reply = self._actor.tell.remote(self._attempt, self._rank, step, list(losses))
        self._pending = (step + 1, reply)

    def info(self, step: int) -> dict[str, Any]:
        """Return what the sampler said of this step when it was asked."""
        return self._info[step]

    def state(self, step: int) -> dict[str, Any]:
        """Return the sampler's state before `step`, once every rank has told the step before."""
        self._settle()
        return ray.get(self._actor.state.remote(self._attempt, step))

    def probabilities(self, step: int) -> list[tuple[str, str, float]]:
        """Return theta before `step` as rows (variable, choice, probability)."""
        self._settle()
        return ray.get(self._actor.probabilities.remote(self._attempt, step))

    def missing(self, step: int) -> list[int]:
        """Return the ranks that have not handed in their losses of a step.

        Raises:
            RayError: the actor does not answer, or knows this attempt no more.
        """
        asked = self._actor.missing.remote(self._attempt, step)
        return ray.get(asked, timeout=QUESTION_SECONDS)

    def _settle(self) -> None:
        """Wait for the tell that is under way, and keep what its reply carries."""
        if self._pending is not None:
            (step, reply), self._pending = self._pending, None
            self._next = (step, ray.get(reply))


def absent(ranks: Sequence[int]) -> str:
    """Say of some ranks that they did not hand in their losses."""
    noun, whose = ("rank", "its") if len(ranks) == 1 else ("ranks", "their")
    return f"{noun} {', '.join(map(str, ranks))} did not hand in {whose} losses"


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
