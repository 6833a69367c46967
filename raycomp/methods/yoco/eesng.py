"""EE-SNG: the exploit-explore probability group and its controller, behind ask and tell (Alg. 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.methods.yoco.schedule import Schedule
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.space import SearchSpace
from raycomp.search.updates import make_update_rule

MATCH_CANDIDATES = 16

Costs = Callable[[np.ndarray], np.ndarray]
"""From choice indices, (samples, variables), -1 where a layer is not kept, to costs: (samples,)."""


@dataclass(frozen=True)
class EESNGSettings:
    """Settings of the sampler.

    Attributes:
        update: "raw" (Eq. 5 as printed), "sng" (ranked, constant step), "asng" (adaptive step).
        lam: architectures a step.
        interval: I, steps between refreshes of the controller's probability.
        joint: one (heads, ffn) variable a layer, as in the released code.
        exploration_update: what samples of pi do to theta: "skip" leaves them out, "weighted" weighs
            them by min(1, P_theta / pi), "plain" takes them as samples of theta (the released code).
        pairing: "free" draws independently (the paper); "matched" draws the further members of a step
            as close in cost to the first as 16 candidates allow.
        mode: "eesng", or one half alone: "exploit" (K = 1), "explore" (K = 0).
        sampler_sync_steps: steps whose architectures are drawn together, from theta before the first
            of them. 1 draws each step from all losses before it (the paper).
        seed: of every draw.
    """

    update: Literal["raw", "sng", "asng"] = "asng"
    samples: int = 2
    interval: int = 20
    joint: bool = False
    exploration_update: Literal["weighted", "skip", "plain"] = "skip"
    pairing: Literal["free", "matched"] = "matched"
    mode: Literal["eesng", "exploit", "explore"] = "eesng"
    sampler_sync_steps: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Draw:
    """What one step trains, and what was known when it was drawn.

    Attributes:
        step: the step.
        rows: choice indices of each architecture.
        explored: whether they were drawn from pi.
        k: K of Eq. 6.
        entropy: rho of theta, in nats.
    """

    step: int
    rows: list[list[int]]
    explored: bool
    k: float
    entropy: float


class EESNG:
    """Samples the architectures of each training step and learns theta from their losses."""

    def __init__(
        self,
        space: SearchSpace,
        schedule: Schedule,
        settings: EESNGSettings,
        costs: Costs | None = None,
    ) -> None:
        """Make a sampler that begins at step 0.

        Args:
            space: what is drawn from.
            schedule: phases and their steps.
            settings: see EESNGSettings.
            costs: what "matched" pairs are equal in.
        """
        if settings.samples < 2 or settings.interval < 1 or settings.sampler_sync_steps < 1:
            raise ValueError("samples must be at least 2, interval and sampler_sync_steps at least 1")
        if settings.pairing == "matched" and costs is None:
            raise ValueError('pairing="matched" needs costs')
        self.space, self.schedule, self.settings = space, schedule, settings
        self._costs = costs
        self.dist = ArchitectureDistribution(space.variables(settings.joint))
        self.rule = make_update_rule(settings.update, self.dist)
        self._layers = np.array([-1 if v.layer is None else v.layer for v in self.dist.variables])
        self._rng = np.random.default_rng(settings.seed)
        self._phase = -1
        self._k = 1.0
        self._next = 0
        self._drawn: list[Draw] = []  # the rest of a block, that which is told next first

    def ask(self, step: int) -> list[Architecture]:
        """Return the architectures of a step; asked again before it is told, the same ones.

        Raises:
            ValueError: an earlier block is still to be told, or the step is told already.
        """
        if not self._drawn:
            if step < self._next:
                raise ValueError(f"step {step} is told already; the next is {self._next}")
            self._drawn = [self._draw(s) for s in range(step, self.block_end(step))]
        drawn = self._find(step)
        return [self.space.decode(np.array(r), self.settings.joint) for r in drawn.rows]

    def block_end(self, step: int) -> int:
        """Return the step after the block that begins at `step`.

        Blocks end at multiples of `sampler_sync_steps` and before each phase. A phase's first step is a
        block of its own: so theta can be read as each phase opens.
        """
        phase, size = self.schedule.index_at(step), self.settings.sampler_sync_steps
        first = self.schedule.first_step(phase)
        if step == first:
            return step + 1
        return min(step - step % size + size, first + self.schedule.steps[phase])

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Take the losses of a step's architectures, in order; a second telling is ignored.

        Raises:
            ValueError: the step was never asked for, or the number of losses is wrong.
        """
        if step < self._next:
            return
        if not self._drawn or self._drawn[0].step != step:
            raise ValueError(f"step {step} was told, but never asked for, or one before it was not told")
        drawn = self._drawn[0]
        if len(losses) != len(drawn.rows):
            raise ValueError(f"{len(drawn.rows)} losses are expected, {len(losses)} were told")
        if len(drawn.rows) > 1 and self.settings.mode != "explore":
            indices = np.array(drawn.rows)
            self.rule.update(
                self.dist, indices, np.array(losses, np.float64), self._weights(indices, drawn.explored)
            )
        self._drawn, self._next = self._drawn[1:], step + 1

    def info(self, step: int) -> dict[str, Any]:
        """Return p_exploit (K of Eq. 6), entropy (nats), explored and the phase of a step that was asked.

        Raises:
            ValueError: the step was not asked for, or is told.
        """
        drawn = self._find(step)
        return {
            "p_exploit": drawn.k,
            "entropy": drawn.entropy,
            "explored": drawn.explored,
            "phase": self.schedule.phase_at(step).name,
        }

    def _find(self, step: int) -> Draw:
        for drawn in self._drawn:
            if drawn.step == step:
                return drawn
        first = self._drawn[0].step if self._drawn else self._next
        raise ValueError(f"step {first} is still to be told, {step} was asked for")

    def probabilities(self, state: dict[str, Any] | None = None) -> list[tuple[str, str, float]]:
        """Return theta as rows (variable, choice, probability): of `state`, or as it is now."""
        thetas = (self.dist.state_dict() if state is None else state["dist"])["theta"]
        return [
            (v.name, "x".join(map(str, c)) if isinstance(c, tuple) else str(c), float(p))
            for v, theta in zip(self.dist.variables, thetas, strict=True)
            for c, p in zip(v.choices, theta, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the future depends on, JSON-able and bit-exact."""
        return {
            "dist": self.dist.state_dict(),
            "rule": self.rule.state_dict(),
            "rng": self._rng.bit_generator.state,
            "phase": self._phase,
            "k": self._k,
            "next": self._next,
            "drawn": [[d.step, d.rows, d.explored, d.k, d.entropy] for d in self._drawn],
            "joint": self.settings.joint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.dist.load_state_dict(state["dist"])
        self.rule.load_state_dict(state["rule"])
        self._rng.bit_generator.state = state["rng"]
        self._phase, self._k, self._next = state["phase"], state["k"], state["next"]
        self._drawn = [Draw(*each) for each in state.get("drawn", [])]

    def _draw(self, step: int) -> Draw:
        """Open what the phase opens, refresh the controller, and draw."""
        index = self.schedule.index_at(step)
        if index != self._phase:
            self.dist.set_open(self._masks(index))
        if index != self._phase or step % self.settings.interval == 0:
            self._k = self._exploit_probability()
        self._phase = index
        # Eq. 6: H ~ B(N, K); one draw decides for all architectures of the step.
        explored = bool(self._rng.random() >= self._k)
        entropy, alone = self.dist.entropy(), self.dist.max_entropy() == 0.0
        rows = [self._one(explored and not alone)]
        while len(rows) < self.settings.samples and not alone:
            rows.append(self._partner(rows[0], explored))
        return Draw(step, rows, explored and not alone, self._k, entropy)

    def _exploit_probability(self) -> float:
        """K = rho / rho_max, over the variables that are open.  # Eq. 6."""
        if self.settings.mode != "eesng":
            return 1.0 if self.settings.mode == "exploit" else 0.0
        most = self.dist.max_entropy()
        return min(1.0, self.dist.entropy() / most) if most > 0 else 1.0

    def _one(self, explored: bool) -> list[int]:
        return list(map(int, self._some(1, explored)[0]))

    def _some(self, count: int, explored: bool) -> np.ndarray:
        draw = self.dist.sample_uniform if explored else self.dist.sample
        rows = draw(self._rng, count)
        depths = np.array(self.space.depth)[rows[:, :1]]
        return np.where(self._layers < depths, rows, -1)  # layers that a sample's depth does not keep

    def _partner(self, first: list[int], explored: bool) -> list[int]:
        """Return a further member: independent, or the candidate nearest in cost to the first."""
        if self.settings.pairing == "free" or self._costs is None:
            return self._one(explored)
        rows = self._some(MATCH_CANDIDATES, explored)
        costs = self._costs(np.vstack([[first], rows]))
        gaps = np.where((rows == first).all(1), np.inf, np.abs(costs[1:] - costs[0]))
        best = int(gaps.argmin())
        return first if math.isinf(gaps[best]) else list(map(int, rows[best]))

    def _weights(self, indices: np.ndarray, explored: bool) -> np.ndarray:
        """Return how much each sample counts for theta."""
        if not explored or self.settings.exploration_update == "plain":
            return np.ones(len(indices))
        if self.settings.exploration_update == "skip":
            return np.zeros(len(indices))
        return np.array([math.exp(min(0.0, self.dist.log_ratio(r))) for r in indices])

    def _masks(self, index: int) -> list[np.ndarray]:
        """Return which choices a phase leaves open, per variable."""
        phase = self.schedule.phases[index]
        masks = []
        for variable in self.dist.variables:
            if variable.layer is None:
                mask = [c in phase.depth for c in variable.choices]
            elif self.settings.joint:
                mask = [c[0] in phase.heads and c[1] in phase.ffn for c in variable.choices]  # type: ignore[index]
            else:
                allowed = phase.heads if variable.name.startswith("heads") else phase.ffn
                mask = [c in allowed for c in variable.choices]
            if variable.layer is not None and variable.layer >= phase.depth[-1]:
                # No open depth keeps this layer: it must not count in the entropy.
                first = mask.index(True)
                mask = [j == first for j in range(len(mask))]
            masks.append(np.array(mask))
        return masks
