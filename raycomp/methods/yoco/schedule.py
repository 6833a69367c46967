"""Progressive expansion of the training space (YOCO-BERT, Section 3.2)."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from raycomp.search.space import SearchSpace


@dataclass(frozen=True)
class Phase:
    """The choices that are open during one phase, ascending."""

    name: str
    depth: tuple[int, ...]
    heads: tuple[int, ...]
    ffn: tuple[int, ...]


def progressive_phases(space: SearchSpace) -> tuple[Phase, ...]:
    """Return the largest network, then one smaller choice a phase: heads, then FFN, then depth.

    For the paper's space these are its eight phases after the largest: heads {8,12}, {4,8,12}; FFN
    {1024,3072}, +768, +512; depth {10,12}, +8, +6.
    """
    largest = Phase("largest", space.depth[-1:], space.heads[-1:], space.ffn[-1:])
    found = [largest]
    for key in ("heads", "ffn", "depth"):
        values = getattr(space, key)
        for start in range(len(values) - 2, -1, -1):
            last = found[-1]
            opened = {"depth": last.depth, "heads": last.heads, "ffn": last.ffn}
            opened[key] = values[start:]
            found.append(Phase(f"{key}-{values[start]}", **opened))
    return tuple(found)


@dataclass(frozen=True)
class Schedule:
    """Phases and how many steps each lasts (0 skips one: its choice opens with the next)."""

    phases: tuple[Phase, ...]
    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.phases) != len(self.steps) or min(self.steps) < 0 or sum(self.steps) < 1:
            raise ValueError("one number of steps from 0 up per phase is needed, and one step in all")

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(self.steps))

    @property
    def total(self) -> int:
        """Steps of all phases."""
        return self._ends[-1]

    def index_at(self, step: int) -> int:
        """Return the index of the phase that holds a step; the last phase beyond the end."""
        return min(bisect.bisect_right(self._ends, step), len(self.phases) - 1)

    def phase_at(self, step: int) -> Phase:
        """Return the phase that holds a step."""
        return self.phases[self.index_at(step)]

    def first_step(self, index: int) -> int:
        """Return the first step of a phase."""
        return self._ends[index] - self.steps[index]
