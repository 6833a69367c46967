"""The sampler of a method as a Ray actor; `sampler_client.py` has the side of the workers.

Training runs in blocks of steps (`train.sampler_sync_steps`). The architectures of a block are drawn at
once, and the losses of a block are told at once. Who calls what, in order:

1. The driver starts the actor with `start_sampler`. The actor reads its last snapshot.
2. Rank 0 calls `begin` with a new attempt. The actor writes a snapshot, synced to disk, and replies. From
   then on it refuses calls of older attempts.
3. Each rank calls `ask` for its first block.
4. Each rank calls `tell` after the last forward pass of a block, before the gradients are all-reduced,
and
   does not wait for the reply. The last rank's call (a) adds the shares of all ranks in the order of
   ranks, and updates theta step by step, (b) appends a snapshot, (c) draws the next block. Only then
   all ranks get their reply, and it has the next block: no rank has to call `ask` again.
5. Rank 0 calls `state` for a checkpoint and `probabilities` for the table `distribution`, between two
blocks. 6. If an all-reduce fails, each rank that still runs calls `missing`, and learns which ranks do
not.

Ray delivers a call at least once, and a restarted actor has only the arguments of its constructor. Each
reply is therefore a function of one snapshot: a call that arrives twice changes nothing. A share of a
block that was lost with the actor arrives again, because Ray repeats calls without a reply.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raycomp.config.loader import parse_job
from raycomp.errors import BarrierTimeoutError, PermanentError, StaleAttemptError
from raycomp.methods.registry import load_sampler
from raycomp.runtime.training.sampler_snapshot import SnapshotFile, read_last_snapshot

LATE_SECONDS = 2.0
"""How long the ranks that still run may take to report after one of them saw an all-reduce fail."""

SampledStep = tuple[list[str], dict[str, Any]]
"""The architectures of a step as JSON, and the sampler's information about the step."""

SampledBlock = tuple[int, list[SampledStep]]
"""First step of a block, and what each of its steps trains."""


class SamplerActor:
    """Holds one sampler for all ranks; `start_sampler` starts it as an actor.

    Example, with one rank and blocks of one step:
        >>> actor = start_sampler(name, job, plan, snapshot)  # doctest: +SKIP
        >>> ray.get(actor.begin.remote("a1", 1, 0, None, 300.0))  # doctest: +SKIP
        >>> first, steps = ray.get(actor.ask.remote("a1", 0))  # doctest: +SKIP
        >>> next_block = ray.get(actor.tell.remote("a1", 0, 0, [[0.7, 0.9]]))  # doctest: +SKIP
    """

    def __init__(self, job: dict[str, Any], plan: dict[str, Any], snapshot: str) -> None:
        """Build the sampler, and load the last snapshot if there is one.

        Args:
            job: The job, as JSON-like values.
            plan: Plan of the training.
            snapshot: Path of the snapshot file.
        """
        build_sampler = load_sampler(plan["sampler"]["name"])
        self._sampler = build_sampler(parse_job(job), plan)
        self._snapshots = SnapshotFile(Path(snapshot))
        self._attempt = ""
        self._world_size = 1
        self._timeout = 300.0

        # First step of the current block. The losses of all steps before it were told.
        self._step = 0
        # By rank: its shares of the losses of the current block.
        self._shares: dict[int, list[list[float]]] = {}
        # By rank: the last step that it is known to have reached.
        self._reached_steps: dict[int, int] = {}
        # Wakes the calls that wait for other ranks.
        self._progressed = asyncio.Condition()

        self._load_snapshot()
        # The sampler's state before the current block is drawn. Checkpoints and snapshots have it.
        self._state = self._sampler.state_dict()
        self._block: list[SampledStep] | None = None

    async def begin(
        self, attempt: str, world_size: int, step: int, state: dict[str, Any] | None, timeout: float
    ) -> None:
        """Open an attempt, and refuse the calls of all older ones.

        Args:
            attempt: Identifier of the attempt.
            world_size: Number of ranks.
            step: First step of the attempt.
            state: The sampler's state at this step, from a checkpoint. None: the sampler is there
                already.
            timeout: Seconds that a call may wait for other ranks.

        Raises:
            StaleAttemptError: The state is None, and the sampler is at another step.
        """
        if attempt == self._attempt:
            # The same call again, after a restart of the actor.
            return

        if state is not None:
            self._sampler.load_state_dict(state)
            self._state = self._sampler.state_dict()
            self._block = None
        elif self._step != step:
            raise StaleAttemptError(
                f"The attempt begins at step {step} without a sampler state, but the sampler is at step "
                f"{self._step}."
            )

        self._attempt = attempt
        self._world_size = world_size
        self._timeout = timeout
        self._step = step
        self._shares = {}
        self._reached_steps = {}
        self._snapshots.replace(self._snapshot())

        # Calls of older attempts that wait are refused now.
        async with self._progressed:
            self._progressed.notify_all()

    async def ask(self, attempt: str, step: int) -> SampledBlock:
        """Return the block that begins at a step, once the losses before it were told.

        Raises:
            BarrierTimeoutError: A rank did not send its losses in time; the message names it.
            StaleAttemptError: The attempt was replaced.
        """
        self._check_attempt(attempt)
        await self._wait_for_step(attempt, step)
        return self._draw_block()

    async def tell(
        self, attempt: str, rank: int, step: int, losses: list[list[float]]
    ) -> SampledBlock | None:
        """Take one rank's shares of the losses of a block. The last rank's call updates theta.

        Args:
            attempt: Attempt of the rank.
            rank: The rank.
            step: First step of the block.
            losses: For each step of the block, this rank's share of the loss of each architecture.

        Returns:
            The next block, once all ranks have sent their shares; None after the last step.

        Raises:
            BarrierTimeoutError: A rank did not send its losses in time; the message names it.
            StaleAttemptError: The attempt was replaced, or the snapshot is older than its workers.
        """
        self._check_attempt(attempt)
        if step > self._step:
            raise StaleAttemptError(
                f"Losses of step {step} were sent, but the sampler's snapshot is of step {self._step}."
            )

        block_end = step + len(losses)
        # Else the losses were told before, and only the reply was lost.
        if step == self._step:
            block_size = self._sampler.block_end(step) - step
            if len(losses) != block_size:
                raise StaleAttemptError(
                    f"Losses of {len(losses)} steps from step {step} on were sent, but the block has "
                    f"{block_size} steps."
                )
            self._shares[rank] = losses
            self._reached_steps[rank] = block_end - 1
            if len(self._shares) == self._world_size:
                await self._finish_block()

        await self._wait_for_step(attempt, block_end)
        if block_end < self._sampler.schedule.total:
            return self._draw_block()
        return None

    async def state(self, attempt: str, step: int) -> dict[str, Any]:
        """Return the sampler's state between step - 1 and step. A checkpoint has it."""
        self._check_attempt(attempt)
        await self._wait_for_step(attempt, step)
        return self._state

    async def probabilities(self, attempt: str, step: int) -> list[tuple[str, str, float]]:
        """Return theta between step - 1 and step, as rows (variable, choice, probability)."""
        self._check_attempt(attempt)
        await self._wait_for_step(attempt, step)
        return self._sampler.probabilities(self._state)

    async def missing(self, attempt: str, rank: int, step: int) -> list[int]:
        """Return the ranks that do not show within LATE_SECONDS that they have reached a step.

        A rank shows it by a call of `missing`, or by losses of this or a later step.

        Args:
            attempt: Attempt of the rank.
            rank: Rank whose all-reduce failed.
            step: Step of the all-reduce.
        """
        self._check_attempt(attempt)
        self._reached_steps[rank] = max(step, self._reached_steps.get(rank, step))

        def missing_ranks() -> list[int]:
            if step < self._step:
                return []
            return [r for r in range(self._world_size) if self._reached_steps.get(r, -1) < step]

        async with self._progressed:
            # This rank has reached the step: other calls of `missing` may end now.
            self._progressed.notify_all()
            with contextlib.suppress(TimeoutError):
                all_reached = self._progressed.wait_for(lambda: not missing_ranks())
                await asyncio.wait_for(all_reached, LATE_SECONDS)
        return missing_ranks()

    async def _finish_block(self) -> None:
        """Tell the sampler the losses of the block, save, and wake all calls that wait for it."""
        # In the order of ranks: a floating-point sum must not depend on which rank came first.
        ordered_shares = [self._shares[rank] for rank in range(self._world_size)]
        for step_shares in zip(*ordered_shares, strict=True):
            # A restarted actor has not drawn this step. It draws the same architectures again.
            self._sampler.ask(self._step)
            losses = [sum(arch_shares) for arch_shares in zip(*step_shares, strict=True)]
            self._sampler.tell(self._step, losses)
            self._step += 1

        self._shares = {}
        self._state = self._sampler.state_dict()
        self._block = None

        async with self._progressed:
            try:
                self._snapshots.append(self._snapshot())
            finally:
                self._progressed.notify_all()

    def _draw_block(self) -> SampledBlock:
        """Return the current block. It is drawn once."""
        if self._block is None:
            self._block = []
            for step in range(self._step, self._sampler.block_end(self._step)):
                archs = [arch.to_json() for arch in self._sampler.ask(step)]
                self._block.append((archs, self._sampler.info(step)))
        return self._step, self._block

    async def _wait_for_step(self, attempt: str, step: int) -> None:
        """Wait until the losses of all steps before `step` were told."""
        is_inside_block = self._step < step < self._sampler.block_end(self._step)
        if attempt == self._attempt and is_inside_block:
            raise ValueError(f"step {step} is inside the block that begins at step {self._step}")

        def may_continue() -> bool:
            return self._step >= step or attempt != self._attempt

        # Most calls do not have to wait.
        if not may_continue():
            await self._wait_until(may_continue)

        self._check_attempt(attempt)
        if step != self._step:
            raise StaleAttemptError(
                f"Step {step} was requested, but the sampler is at step {self._step}."
            )

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        async with self._progressed:
            try:
                await asyncio.wait_for(self._progressed.wait_for(condition), self._timeout)
            except TimeoutError:
                late_ranks = [r for r in range(self._world_size) if r not in self._shares]
                raise BarrierTimeoutError(
                    f"Step {self._step}: {name_ranks(late_ranks)} did not send losses within "
                    f"{self._timeout:g} s (train.barrier_seconds). Check the node of that worker, then "
                    "run the same command again: training resumes from the last checkpoint."
                ) from None

    def _check_attempt(self, attempt: str) -> None:
        """Raise StaleAttemptError if another attempt is open."""
        if attempt == self._attempt:
            return
        if not self._attempt:
            raise StaleAttemptError(
                f"Attempt {attempt} is unknown: {self._snapshots.path} does not have its snapshot."
            )
        raise StaleAttemptError(f"Attempt {attempt} was replaced by {self._attempt}.")

    def _snapshot(self) -> dict[str, Any]:
        return {
            "attempt": self._attempt,
            "world": self._world_size,
            "step": self._step,
            "timeout": self._timeout,
            "sampler": self._state,
        }

    def _load_snapshot(self) -> None:
        """Load the last complete snapshot. Without one, `begin` brings all that it would have."""
        path = self._snapshots.path
        snapshot = read_last_snapshot(path)
        if snapshot is None:
            return
        try:
            self._sampler.load_state_dict(snapshot["sampler"])
            self._attempt = snapshot["attempt"]
            self._world_size = snapshot["world"]
            self._step = snapshot["step"]
            self._timeout = snapshot["timeout"]
        except (KeyError, TypeError, ValueError) as error:
            raise PermanentError(
                f"{path} is not a snapshot of this run's sampler ({error}). Move it away, then run the "
                "same command again: training resumes from the last checkpoint."
            ) from None


def name_ranks(ranks: Sequence[int]) -> str:
    """Return a phrase such as "rank 1" or "ranks 1, 3"."""
    noun = "rank" if len(ranks) == 1 else "ranks"
    return f"{noun} {', '.join(map(str, ranks))}"
