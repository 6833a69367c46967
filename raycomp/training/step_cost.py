"""FLOPs of a training step, counted in the same way for every method.

A forward pass has the FLOPs of `encoder/cost.py`, in proportion to the tokens of the text. A network that
is trained costs `TRAINING_PASSES` forward passes, also where a part of it is frozen. A teacher costs one.
What a loss adds (maps of hidden states, relations, divergences) is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture

TRAINING_PASSES = 3
"""Forward passes that training takes: the forward pass, and a backward pass of twice its FLOPs."""

TokenFlops = Callable[[Architecture | None], float]
"""From a part of a network to the FLOPs of a forward pass, per token of text. None is all of it."""


@dataclass(frozen=True)
class StepCost:
    """What a forward pass costs, of the networks of a step.

    Attributes:
        network: Cost of each part of the network that is trained.
        teacher: FLOPs of the teacher, per token of text.
    """

    network: TokenFlops
    teacher: float

    def of_step(self, batch: Batch, archs: Sequence[Architecture | None], *, has_teacher: bool) -> float:
        """Return the FLOPs of a step, over the global batch of all workers.

        Args:
            batch: Rows of this worker.
            archs: Parts of the network that the step trains.
            has_teacher: Whether the teacher runs on the batch.
        """
        per_token = TRAINING_PASSES * sum(self.network(arch) for arch in archs)
        if has_teacher:
            per_token += self.teacher
        return batch.total_tokens * per_token
