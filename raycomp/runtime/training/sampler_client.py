"""The sampler that a training worker holds, answered by the actor of `sampler_actor.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raycomp.encoder.architecture import Architecture
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.training.sampler_actor import SampledBlock, SampledStep, list_ranks

QUESTION_SECONDS = 10.0


class ActorSampler:
    """The Sampler that a worker holds: the same three calls, answered by the actor.

    Calls are made for whole blocks of steps, and `tell` does not wait. What it brings about is known at
    the next `ask`, `state` or `probabilities`: the next architectures, or why the block failed.
    """

    def __init__(self, actor: Any, attempt: str, rank: int) -> None:
        self._actor = actor
        self._attempt = attempt
        self._rank = rank
        self._block: dict[int, SampledStep] = {}
        self._losses: dict[int, list[float]] = {}  # those of the block that are not handed in yet
        self._pending: Any = None  # the reply that will carry the next block

    def ask(self, step: int) -> list[Architecture]:
        """Return the architectures of a step: those that the last tell's reply carries.

        Raises:
            BarrierTimeoutError: a rank did not hand in its losses of the block before; it is named.
            StaleAttemptError: another attempt took this one's place.
        """
        if step not in self._block:
            self._settle()
        if step not in self._block:
            self._take(ray.get(self._actor.ask.remote(self._attempt, step)))
        return [Architecture.from_json(t) for t in self._block[step][0]]

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Take this worker's share of a step's losses; returns at once. Told again it is ignored.

        The block's last step hands them in.
        """
        if step not in self._block or step in self._losses:
            return
        self._losses[step] = list(losses)
        if step == max(self._block):
            told = [self._losses[s] for s in sorted(self._losses)]
            self._pending = self._actor.tell.remote(self._attempt, self._rank, min(self._block), told)

    def info(self, step: int) -> dict[str, Any]:
        """Return what the sampler said of this step when its block was drawn."""
        return self._block[step][1]

    def state(self, step: int) -> dict[str, Any]:
        """Return the sampler's state before `step`, once every rank has told the step before."""
        self._settle()
        return ray.get(self._actor.state.remote(self._attempt, step))

    def probabilities(self, step: int) -> list[tuple[str, str, float]]:
        """Return theta before `step` as rows (variable, choice, probability)."""
        self._settle()
        return ray.get(self._actor.probabilities.remote(self._attempt, step))

    def missing(self, step: int) -> list[int]:
        """Return the ranks that have not come to a step whose sum failed, as far as is known.

        Raises:
            RayError: the actor does not answer, or knows this attempt no more.
        """
        asked = self._actor.missing.remote(self._attempt, self._rank, step)
        return ray.get(asked, timeout=QUESTION_SECONDS)

    def _settle(self) -> None:
        """Wait for the tell that is under way, and take the block that its reply carries."""
        if self._pending is not None:
            reply, self._pending = self._pending, None
            block = ray.get(reply)
            if block is not None:
                self._take(block)

    def _take(self, block: SampledBlock) -> None:
        first, drawn = block
        self._block, self._losses = dict(enumerate(drawn, first)), {}


def describe_missing_ranks(ranks: Sequence[int]) -> str:
    """Say of some ranks that they gave no sign of a step."""
    return f"{list_ranks(ranks)} did not respond"
