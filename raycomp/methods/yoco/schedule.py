"""Progressive training: the phases in which the choices of the search space open (YOCO-BERT, 3.2)."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from raycomp.search.space import SearchSpace, Variable


@dataclass(frozen=True)
class Phase:
    """The choices that are open during one phase, each in ascending order.

    Attributes:
        name: "largest", or the dimension and the choice that opens, such as "heads-8".
        depth: Numbers of layers.
        heads: Numbers of heads of a layer.
        ffn: Widths of a layer's FFN.
    """

    name: str
    depth: tuple[int, ...]
    heads: tuple[int, ...]
    ffn: tuple[int, ...]

    @property
    def dimensions(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Open choices of depth, heads and FFN, as `SearchSpace` takes them."""
        return self.depth, self.heads, self.ffn

    def open_choices(self, variables: Sequence[Variable]) -> list[np.ndarray]:
        """Return for each variable of a distribution which of its choices are open, (choices,) bool.

        A layer that none of the open depths has keeps one open choice: it then adds nothing to the
        entropy, and its probabilities do not change.
        """
        masks = []
        for variable in variables:
            mask = np.array([self._is_open(variable, choice) for choice in variable.choices])
            if variable.layer is not None and variable.layer >= self.depth[-1]:
                first = int(mask.argmax())
                mask = np.arange(len(mask)) == first
            masks.append(mask)
        return masks

    def _is_open(self, variable: Variable, choice: object) -> bool:
        if variable.name == "depth":
            return choice in self.depth
        if isinstance(choice, tuple):
            heads, ffn = choice
            return heads in self.heads and ffn in self.ffn
        return choice in (self.heads if variable.name.startswith("heads") else self.ffn)


def progressive_phases(space: SearchSpace) -> tuple[Phase, ...]:
    """Return the phases: the largest network, then one smaller choice each, of heads, FFN and depth.

    After the largest network, the paper's space has its eight phases: heads {8, 12}, {4, 8, 12}; FFN
    {1024, 3072}, then with 768, with 512; depth {10, 12}, then with 8, with 6.

    >>> space = SearchSpace(num_layers=2, depth=(1, 2), heads=(2, 4), ffn=(16, 64))
    >>> [phase.name for phase in progressive_phases(space)]
    ['largest', 'heads-2', 'ffn-16', 'depth-1']
    """
    phases = [Phase("largest", space.depth[-1:], space.heads[-1:], space.ffn[-1:])]
    for key in ("heads", "ffn", "depth"):
        values = getattr(space, key)
        # From the second largest choice down to the smallest, one phase each.
        for first_open in range(len(values) - 2, -1, -1):
            last = phases[-1]
            choices = {"depth": last.depth, "heads": last.heads, "ffn": last.ffn}
            choices[key] = values[first_open:]
            phases.append(Phase(f"{key}-{values[first_open]}", **choices))
    return tuple(phases)


@dataclass(frozen=True)
class Schedule:
    """The phases of a training and the number of steps of each.

    Attributes:
        phases: Phases, in order.
        steps: Steps of each phase. A phase of 0 steps is skipped: its choice opens with the next phase.
    """

    phases: tuple[Phase, ...]
    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.phases) != len(self.steps) or min(self.steps) < 0 or sum(self.steps) < 1:
            raise ValueError(
                f"steps = {self.steps} do not fit {len(self.phases)} phases: each phase needs a number "
                "from 0 up, and their sum must be at least 1"
            )

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(self.steps))

    @property
    def total(self) -> int:
        """Steps of all phases."""
        return self._ends[-1]

    def index_at(self, step: int) -> int:
        """Return the index of the phase of a step; steps after the end belong to the last phase."""
        return min(bisect.bisect_right(self._ends, step), len(self.phases) - 1)

    def phase_at(self, step: int) -> Phase:
        """Return the phase of a step."""
        return self.phases[self.index_at(step)]

    def first_step(self, index: int) -> int:
        """Return the first step of a phase."""
        return self._ends[index] - self.steps[index]
