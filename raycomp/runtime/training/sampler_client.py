"""Access to the sampler actor: the driver starts it, and each training worker calls it as a sampler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raycomp.encoder.architecture import Architecture
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.placement import on_driver_node
from raycomp.runtime.training.sampler_actor import (
    SampledBlock,
    SampledStep,
    SamplerActor,
)

MISSING_TIMEOUT_SECONDS = 10.0
"""How long a rank waits for the actor's answer to `missing`."""


def start_sampler(name: str, job: dict[str, Any], plan: dict[str, Any], snapshot: Path) -> Any:
    """Start the sampler actor, or return the one of this name that runs.

    Args:
        name: Name of the actor.
        job: The job, as JSON-like values.
        plan: Plan of the training.
        snapshot: Path of the snapshot file.
    """
    return (
        ray.remote(SamplerActor)
        .options(
            name=name,
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=1000,
            # It writes its snapshots to the run directory itself.
            scheduling_strategy=on_driver_node(),
        )
        .remote(job, plan, str(snapshot))
    )


def open_attempt(
    name: str, attempt: str, world_size: int, step: int, state: dict[str, Any] | None, timeout: float
) -> None:
    """Open an attempt at the sampler actor, which refuses older attempts from then on.

    Args:
        name: Name of the actor.
        attempt: Identifier of the attempt.
        world_size: Number of ranks.
        step: First step of the attempt.
        state: State of the sampler before that step.
        timeout: Seconds to wait for a missing rank.
    """
    ray.get(ray.get_actor(name).begin.remote(attempt, world_size, step, state, timeout))


class ActorSampler:
    """A sampler with the methods of the in-process one (`ask`, `tell`, `info`), answered by the actor.

    One call to the actor serves a whole block of steps, and `tell` does not wait for its reply. The reply
    arrives with the next `ask`, `state` or `probabilities`: it has the next block, or it raises the
    error of the block before.

    Example:
        >>> sampler = ActorSampler(actor, attempt, rank)  # doctest: +SKIP
        >>> archs = sampler.ask(step)  # doctest: +SKIP
        >>> sampler.tell(step, [loss_share(arch) for arch in archs])  # doctest: +SKIP
    """

    def __init__(self, actor: Any, attempt: str, rank: int) -> None:
        """Connect to the actor.

        Args:
            actor: The actor.
            attempt: Attempt that rank 0 has opened there.
            rank: This rank.
        """
        self._actor = actor
        self._attempt = attempt
        self._rank = rank

        # By step: the current block, and the losses that the actor does not have yet.
        self._block: dict[int, SampledStep] = {}
        self._losses: dict[int, list[float]] = {}
        # Reference to the reply that has the next block.
        self._pending_reply: Any = None

    @classmethod
    def connect(cls, name: str, attempt: str, rank: int) -> ActorSampler:
        """Return the client of a named actor; see `ActorSampler`."""
        return cls(ray.get_actor(name), attempt, rank)

    def ask(self, step: int) -> list[Architecture]:
        """Return the architectures of a step. Usually the reply to the last `tell` has them.

        Raises:
            BarrierTimeoutError: A rank did not send its losses of the block before; the message names it.
            StaleAttemptError: Another attempt has replaced this one.
        """
        if step not in self._block:
            self._receive_reply()
        if step not in self._block:
            self._set_block(ray.get(self._actor.ask.remote(self._attempt, step)))

        archs, _ = self._block[step]
        return [Architecture.from_json(text) for text in archs]

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Take this rank's share of a step's losses. A second call for the same step is ignored.

        The last step of a block sends the losses of the whole block. The call does not wait.

        Args:
            step: The step.
            losses: This rank's share of the loss of each architecture.
        """
        if step not in self._block or step in self._losses:
            return
        self._losses[step] = list(losses)

        if step == max(self._block):
            first_step = min(self._block)
            block_losses = [self._losses[s] for s in sorted(self._losses)]
            self._pending_reply = self._actor.tell.remote(
                self._attempt, self._rank, first_step, block_losses
            )

    def info(self, step: int) -> dict[str, Any]:
        """Return the sampler's information about a step of the current block."""
        _, info = self._block[step]
        return info

    def state(self, step: int) -> dict[str, Any]:
        """Return the sampler's state before a step, once every rank has told the step before."""
        self._receive_reply()
        return ray.get(self._actor.state.remote(self._attempt, step))

    def probabilities(self, step: int) -> list[tuple[str, str, float]]:
        """Return theta before a step, as rows (variable, choice, probability)."""
        self._receive_reply()
        return ray.get(self._actor.probabilities.remote(self._attempt, step))

    def missing(self, step: int) -> list[int]:
        """Return the ranks that are not known to have reached a step whose all-reduce failed.

        Empty if the actor does not answer, or if this attempt was replaced.
        """
        reply = self._actor.missing.remote(self._attempt, self._rank, step)
        try:
            return ray.get(reply, timeout=MISSING_TIMEOUT_SECONDS)
        except ray.exceptions.RayError:
            return []

    def _receive_reply(self) -> None:
        """Wait for the reply to the last `tell`, and take its block."""
        if self._pending_reply is None:
            return
        reply = self._pending_reply
        self._pending_reply = None
        block = ray.get(reply)
        if block is not None:
            self._set_block(block)

    def _set_block(self, block: SampledBlock) -> None:
        first_step, steps = block
        self._block = dict(enumerate(steps, first_step))
        self._losses = {}
