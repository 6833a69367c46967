"""The EE-SNG distribution and its controller as a Ray actor; `sampler_client.py` is the workers' side.

Calls over Ray are at-least-once and a restarted actor has only its constructor. So every answer is
a function of one snapshot on the run's storage, appended to a file before the reply: a call that comes
twice changes nothing, a call of an attempt that was replaced is refused, a missing worker is named.

Steps come in blocks (`train.sampler_sync_steps`): a block's architectures are drawn together, and its
losses are told together. The last share of them also draws the next block, and every rank's reply
carries it: no worker waits between two steps for longer than the actor computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raycomp.config.loader import parse_job
from raycomp.errors import BarrierTimeoutError, StaleAttemptError, UserError
from raycomp.methods.yoco.plan import build_sampler
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.placement import on_driver_node
from raycomp.storage.files import append_line, write_json

LATE_SECONDS = 2.0
"""How long ranks that are well may take to say so after one of them saw the sum fail."""
SNAPSHOT_BYTES = 1 << 16
"""How long the file of snapshots may grow before it is begun again: it is copied to where a URL says."""

SampledStep = tuple[list[str], dict[str, Any]]
"""The architectures of a step (JSON) and its info."""

SampledBlock = tuple[int, list[SampledStep]]
"""The first step of a block, and what each of its steps trains."""


class SamplerActor:
    """Holds one sampler for `world` workers; wrapped by `ray.remote` where it is started."""

    def __init__(self, job: dict[str, Any], plan: dict[str, Any], snapshot: str) -> None:
        self._sampler = build_sampler(parse_job(job), plan)
        self._path = Path(snapshot)
        self._attempt = ""
        self._world = 1
        self._told: dict[int, list[list[float]]] = {}
        self._reached: dict[int, int] = {}  # by rank: the last step that it said it has come to
        self._step = 0  # the first step that is not told yet: that of a block
        self._timeout = 300.0
        self._arrived = asyncio.Condition()
        self._room = 0  # bytes that may still be appended to the file of snapshots
        self._restore()
        # The sampler's state before `_step` is drawn: what a checkpoint and the snapshot hold.
        self._between = self._sampler.state_dict()
        self._drawn: list[SampledStep] | None = None

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
            raise StaleAttemptError(f"no state was given for step {step}; the sampler is at {self._step}")
        self._attempt, self._world, self._step = attempt, world, step
        self._told, self._reached, self._timeout = {}, {}, timeout
        self._save()
        async with self._arrived:
            self._arrived.notify_all()  # who waits for an older attempt is refused now

    async def ask(self, attempt: str, step: int) -> SampledBlock:
        """Return the block that begins at a step, once the steps before are told."""
        self._check(attempt)
        await self._barrier(attempt, step)
        return self._draw()

    async def tell(
        self, attempt: str, rank: int, step: int, losses: list[list[float]]
    ) -> SampledBlock | None:
        """Take one worker's shares of the losses of a block; the last share updates theta.

        Args:
            attempt: of the worker.
            rank: the worker's.
            step: the first of the block.
            losses: of each step of the block, one an architecture.

        Returns:
            What `ask` returns of the next block, once all shares are in; None after the last step.

        Raises:
            BarrierTimeoutError: a rank did not hand in its share in time; it is named.
            StaleAttemptError: the attempt was replaced, or the snapshot is older than its workers.
        """
        self._check(attempt)
        if step > self._step:
            raise StaleAttemptError(
                f"step {step} was told; the sampler's snapshot is of step {self._step}"
            )
        end = step + len(losses)
        if step == self._step:  # else told before: the reply was lost, not the update
            if len(losses) != (size := self._sampler.block_end(step) - step):
                raise StaleAttemptError(
                    f"losses of {len(losses)} steps from {step} on were told; the block has {size}"
                )
            self._told[rank], self._reached[rank] = losses, end - 1
            if len(self._told) == self._world:
                await self._update()
        await self._barrier(attempt, end)
        return self._draw() if end < self._sampler.schedule.total else None

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

    async def missing(self, attempt: str, rank: int, step: int) -> list[int]:
        """Return the ranks that do not say within LATE_SECONDS that they have come to a step.

        For ranks whose sum failed: each says that it is well by asking, or by losses of a later step.
        """
        self._check(attempt)
        self._reached[rank] = max(step, self._reached.get(rank, step))

        def absent_() -> list[int]:
            if step < self._step:
                return []
            return [r for r in range(self._world) if self._reached.get(r, -1) < step]

        async with self._arrived:
            self._arrived.notify_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait_for(lambda: not absent_()), LATE_SECONDS)
        return absent_()

    async def _update(self) -> None:
        """Tell the sampler the block whose shares are all in, save, and wake who waits for it."""
        # Shares are added in the order of ranks: the sum must not depend on who came first.
        for shares in zip(*(self._told[r] for r in range(self._world)), strict=True):
            self._sampler.ask(self._step)  # a restart forgot the draw: the same one is made again
            self._sampler.tell(self._step, [sum(parts) for parts in zip(*shares, strict=True)])
            self._step += 1
        self._told = {}
        self._between, self._drawn = self._sampler.state_dict(), None
        async with self._arrived:
            try:
                self._append()
            finally:
                self._arrived.notify_all()

    def _draw(self) -> SampledBlock:
        if self._drawn is None:
            first, found = self._step, []
            for step in range(first, self._sampler.block_end(first)):
                archs = self._sampler.ask(step)
                found.append(([a.to_json() for a in archs], self._sampler.info(step)))
            self._drawn = found
        return self._step, self._drawn

    async def _barrier(self, attempt: str, step: int) -> None:
        def open_() -> bool:
            return self._step >= step or attempt != self._attempt

        if attempt == self._attempt and self._step < step < self._sampler.block_end(self._step):
            raise ValueError(f"step {step} lies within the block that begins at {self._step}")
        if not open_():
            async with self._arrived:
                try:
                    await asyncio.wait_for(self._arrived.wait_for(open_), self._timeout)
                except TimeoutError:
                    raise BarrierTimeoutError(
                        f"step {self._step}: {describe_late_ranks(self._absent())} "
                        f"within {self._timeout:g} s"
                    ) from None
        self._check(attempt)
        if step != self._step:
            raise StaleAttemptError(f"step {step} was asked for; the sampler is at step {self._step}")

    def _absent(self) -> list[int]:
        return [r for r in range(self._world) if r not in self._told]

    def _check(self, attempt: str) -> None:
        if attempt == self._attempt:
            return
        if not self._attempt:
            raise StaleAttemptError(
                f"attempt {attempt} is not open: {self._path} holds no snapshot of it"
            )
        raise StaleAttemptError(f"attempt {attempt} was replaced by {self._attempt}")

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
        data = read_last_snapshot(self._path)
        if data is None:
            return
        try:
            self._sampler.load_state_dict(data["sampler"])
            self._attempt, self._world = data["attempt"], data["world"]
            self._step, self._timeout = data["step"], data["timeout"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self._path} is no snapshot of this run ({error})") from None


def read_last_snapshot(path: Path) -> Any:
    """Return what the last line of JSON in a file holds; None where there is none."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            return json.loads(line)
    return None


def describe_late_ranks(ranks: Sequence[int]) -> str:
    """Say of some ranks that they did not hand in their losses."""
    return f"{list_ranks(ranks)} did not hand in {'its' if len(ranks) == 1 else 'their'} losses"


def list_ranks(ranks: Sequence[int]) -> str:
    """Name ranks in a sentence."""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}"


def start_sampler(name: str, job: dict[str, Any], plan: dict[str, Any], snapshot: Path) -> Any:
    """Start the named, restartable actor of a run, or find the one that runs."""
    return (
        ray.remote(SamplerActor)
        .options(
            name=name,
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=1000,
            scheduling_strategy=on_driver_node(),  # it keeps its snapshot in the run's folder
        )
        .remote(job, plan, str(snapshot))
    )
