"""EE-SNG, the sampler of YOCO-BERT (Alg. 1): the entropy controller, and the architectures of each step.

Source: YOCO-BERT (Zhang et al., 2021), Section 3.3. The distribution and the update rules, which the
search uses too, are in `raycomp.search`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.methods.yoco.schedule import Schedule
from raycomp.search.cost_targets import CostTargets
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.space import SearchSpace
from raycomp.search.update_rules import make_update_rule

MATCH_CANDIDATES = 16
"""Architectures that matched pairing chooses the second of a pair from."""

NOT_KEPT = -1
"""Choice index of a variable whose layer an architecture does not have."""

Costs = Callable[[np.ndarray], np.ndarray]
"""Maps choice indices (samples, variables), NOT_KEPT where a layer is absent, to costs (samples,)."""


@dataclass(frozen=True)
class EESNGSettings:
    """Settings of the sampler. They have the names of the job's keys, in `[train]` and `[space]`.

    Attributes:
        update: Update rule of theta: "raw" (Eq. 5 as printed), "sng" (ranked losses, constant step) or
            "asng" (ranked losses, adaptive step), or "regression" (effects of choices at equal cost).
        samples: Lambda, the number of architectures per step.
        interval: I, the number of steps between two updates of the controller.
        joint: Whether a layer has one variable for (heads, ffn), as in the released code.
        exploration_update: How samples of pi update theta. "skip" leaves them out, "weighted" weighs
            them by min(1, P_theta / pi), "plain" treats them as samples of theta (the released code).
        pairing: "free" draws the architectures of a step independently (the paper). "matched" draws the
            others as close in cost to the first as MATCH_CANDIDATES candidates allow.
        mode: "eesng", or one half of it: "exploit" (K = 1) or "explore" (K = 0).
        sampler_sync_steps: Steps of a block, whose architectures are all drawn before the first of
            them. 1 draws each step after all losses before it are known (the paper).
        seed: Seed of every draw.
    """

    update: Literal["raw", "sng", "asng", "regression"] = "asng"
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
    """The architectures of one step, and the sampler's state when it drew them.

    Attributes:
        step: Number of the step.
        rows: Choice indices of each architecture, NOT_KEPT where a layer is absent.
        explored: Whether they were drawn from pi, not from P_theta.
        exploit_probability: K of Eq. 6.
        entropy: rho, the entropy of P_theta, in nats.
        is_targeted: Whether they were drawn for a cost and do not update theta.
    """

    step: int
    rows: list[list[int]]
    explored: bool
    exploit_probability: float
    entropy: float
    is_targeted: bool = False


class EESNG:
    """Samples the architectures of each training step, and learns theta from their losses.

    The life of a step:

    1. `ask(step)`. The first `ask` of a block draws all steps of the block. For each step, in order:

       - If the step is the first of a phase, the phase's choices open, and the controller is updated.
       - Every `interval` steps the controller is updated: K = rho / rho_max (Eq. 6; Alg. 1, l. 3-5).
       - With probability K all architectures of the step come from P_theta (exploitation), otherwise
         from pi, the uniform distribution over open choices (exploration; Alg. 1, l. 7-8).

    2. The training step computes the loss of each architecture on the same batch (Alg. 1, l. 9).
    3. `tell(step, losses)` updates theta (Eq. 5; Alg. 1, l. 10). Steps are told in order.

    A worker may repeat a call whose answer was lost: it changes nothing. `state_dict` may be saved
    between any two calls: a sampler that loads it draws the same architectures.

    >>> from raycomp.methods.yoco.schedule import progressive_phases
    >>> space = SearchSpace(num_layers=3, depth=(1, 2, 3), heads=(2, 4), ffn=(16, 64))
    >>> phases = progressive_phases(space)
    >>> schedule = Schedule(phases, steps=(1,) * (len(phases) - 1) + (20,))
    >>> sampler = EESNG(space, schedule, EESNGSettings(pairing="free"))
    >>> for step in range(schedule.total):
    ...     archs = sampler.ask(step)
    ...     info = sampler.info(step)
    ...     sampler.tell(step, [float(sum(arch.ffn)) for arch in archs])  # small FFNs are good here
    >>> len(archs), info["phase"]
    (2, 'depth-1')
    """

    def __init__(
        self,
        space: SearchSpace,
        schedule: Schedule,
        settings: EESNGSettings,
        costs: Costs | None = None,
        targets: CostTargets | None = None,
    ) -> None:
        """Create a sampler at step 0.

        Args:
            space: Search space.
            schedule: Phases and their steps.
            settings: See EESNGSettings.
            costs: Cost of architectures, which matched pairing compares.
            targets: Draws the architectures of some steps for a cost; None leaves no step to it.

        Raises:
            ValueError: A setting is out of range, or matched pairing lacks costs.
        """
        if settings.samples < 2 or settings.interval < 1 or settings.sampler_sync_steps < 1:
            raise ValueError(
                f"samples = {settings.samples}, interval = {settings.interval} and sampler_sync_steps = "
                f"{settings.sampler_sync_steps}: samples must be at least 2, the others at least 1"
            )
        if settings.pairing == "matched" and costs is None:
            raise ValueError('pairing = "matched" needs costs')
        self.space = space
        self.schedule = schedule
        self.settings = settings
        self._costs = costs
        self._targets = targets
        self.distribution = ArchitectureDistribution(space.variables(settings.joint))
        self.update_rule = make_update_rule(settings.update, self.distribution, costs)
        # Layer of each variable; -1 for those that every architecture has.
        self._layers = np.array([-1 if v.layer is None else v.layer for v in self.distribution.variables])
        self._rng = np.random.default_rng(settings.seed)
        self._phase = -1
        self._exploit_probability = 1.0
        self._next = 0  # the first step that is not told
        self._draws: list[Draw] = []  # steps of the block that are not told, in order

    def ask(self, step: int) -> list[Architecture]:
        """Return the architectures of a step, (samples,); one if the phase leaves no choice.

        Raises:
            ValueError: An earlier block is not told completely, or the step is told already.
        """
        if not self._draws:
            if step < self._next:
                raise ValueError(f"step {step} is told already; the next is {self._next}")
            self._draws = [self._draw_step(s) for s in range(step, self.block_end(step))]
        draw = self._find_draw(step)
        return [self.space.decode(np.array(row), self.settings.joint) for row in draw.rows]

    def block_end(self, step: int) -> int:
        """Return the step after the block that starts at `step`.

        Blocks end at multiples of `sampler_sync_steps` and before each phase. The first step of a phase
        is a block of its own: theta is recorded after it.
        """
        phase = self.schedule.index_at(step)
        phase_start = self.schedule.first_step(phase)
        if step == phase_start:
            return step + 1
        size = self.settings.sampler_sync_steps
        return min(step - step % size + size, phase_start + self.schedule.steps[phase])

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Update theta with the losses of a step's architectures; a step that is told is ignored.

        Args:
            step: The first step of the block that is not told.
            losses: One loss per architecture, in the order of `ask`.

        Raises:
            ValueError: The step was not asked for, one before it is not told, or the number of losses
                is wrong.
        """
        if step < self._next:
            return
        if not self._draws or self._draws[0].step != step:
            raise ValueError(f"step {step} was never asked for, or a step before it is not told")
        draw = self._draws[0]
        if len(losses) != len(draw.rows):
            raise ValueError(f"step {step}: {len(draw.rows)} losses are expected, got {len(losses)}")

        # One loss cannot be ranked, and in mode "explore" theta stays uniform.
        if len(draw.rows) > 1 and self.settings.mode != "explore" and not draw.is_targeted:
            indices = np.array(draw.rows)
            weights = self._sample_weights(indices, draw.explored)
            values = np.array(losses, np.float64)
            self.update_rule.update(self.distribution, indices, values, weights)  # Eq. 5; Alg. 1, l. 10
        self._draws = self._draws[1:]
        self._next = step + 1

    def info(self, step: int) -> dict[str, Any]:
        """Return p_exploit (K of Eq. 6), entropy (nats), explored and phase of an asked step."""
        draw = self._find_draw(step)
        return {
            "p_exploit": draw.exploit_probability,
            "entropy": draw.entropy,
            "explored": draw.explored,
            "phase": self.schedule.phase_at(step).name,
        }

    def probabilities(self, state: dict[str, Any] | None = None) -> list[tuple[str, str, float]]:
        """Return theta as rows (variable, choice, probability), now or in a `state_dict`."""
        distribution = self.distribution.state_dict() if state is None else state["dist"]
        rows = []
        for variable, theta in zip(self.distribution.variables, distribution["theta"], strict=True):
            for choice, probability in zip(variable.choices, theta, strict=True):
                name = "x".join(map(str, choice)) if isinstance(choice, tuple) else str(choice)
                rows.append((variable.name, name, float(probability)))
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later draws depend on, as JSON values that round-trip bit for bit."""
        return {
            "dist": self.distribution.state_dict(),
            "rule": self.update_rule.state_dict(),
            "rng": self._rng.bit_generator.state,
            "phase": self._phase,
            "k": self._exploit_probability,
            "next": self._next,
            "drawn": [list(astuple(draw)) for draw in self._draws],
            "joint": self.settings.joint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.distribution.load_state_dict(state["dist"])
        self.update_rule.load_state_dict(state["rule"])
        self._rng.bit_generator.state = state["rng"]
        self._phase = state["phase"]
        self._exploit_probability = state["k"]
        self._next = state["next"]
        self._draws = [Draw(*fields) for fields in state.get("drawn", [])]

    def _find_draw(self, step: int) -> Draw:
        for draw in self._draws:
            if draw.step == step:
                return draw
        first = self._draws[0].step if self._draws else self._next
        raise ValueError(f"step {step} was asked for, and step {first} is still to be told")

    def _draw_step(self, step: int) -> Draw:
        """Open the phase's choices, update the controller, and draw the architectures of a step."""
        phase = self.schedule.index_at(step)
        is_phase_start = phase != self._phase
        if is_phase_start:
            opened = self.schedule.phases[phase].open_choices(self.distribution.variables)
            self.distribution.set_open(opened)
        if is_phase_start or step % self.settings.interval == 0:
            self._exploit_probability = self._update_controller()  # Alg. 1, l. 3-5
        self._phase = phase

        # Eq. 6: H ~ B(N, K). One draw of H decides for all architectures of the step.
        explored = bool(self._rng.random() >= self._exploit_probability)
        entropy = self.distribution.entropy()
        has_choice = self.distribution.max_entropy() > 0.0
        explored = explored and has_choice

        if self._targets is not None and has_choice:
            open_space = self.space.narrowed(*self.schedule.phases[phase].dimensions)
            archs = self._targets.draw(open_space, self.settings.samples, self._rng)
            if archs is not None:
                rows = [self.space.encode(arch, self.settings.joint).tolist() for arch in archs]
                return Draw(step, rows, True, self._exploit_probability, entropy, True)

        rows = [self._sample_rows(1, explored)[0].tolist()]
        while len(rows) < self.settings.samples and has_choice:
            rows.append(self._sample_partner(rows[0], explored))
        return Draw(step, rows, explored, self._exploit_probability, entropy)

    def _update_controller(self) -> float:
        """Return K = rho / rho_max, the probability of exploitation, over the open variables (Eq. 6)."""
        if self.settings.mode == "exploit":
            return 1.0
        if self.settings.mode == "explore":
            return 0.0
        max_entropy = self.distribution.max_entropy()
        if max_entropy <= 0:
            return 1.0
        spent = 1.0 - min(1.0, self.distribution.entropy() / max_entropy)  # Eq. 6
        # A rule that knows how probable it is that choices matter at all moves K by evidence only.
        return 1.0 - spent * getattr(self.update_rule, "confidence", 1.0)

    def _sample_rows(self, count: int, explored: bool) -> np.ndarray:
        """Draw choice indices (count, variables), NOT_KEPT for layers beyond a sample's depth."""
        draw = self.distribution.sample_uniform if explored else self.distribution.sample
        rows = draw(self._rng, count)
        depths = np.array(self.space.depth)[rows[:, :1]]  # the first variable is depth
        return np.where(self._layers < depths, rows, NOT_KEPT)

    def _sample_partner(self, first: list[int], explored: bool) -> list[int]:
        """Draw a further architecture of a step: independent, or close in cost to the first."""
        if self.settings.pairing == "free" or self._costs is None:
            return self._sample_rows(1, explored)[0].tolist()
        rows = self._sample_rows(MATCH_CANDIDATES, explored)
        costs = self._costs(np.vstack([[first], rows]))
        gaps = np.where((rows == first).all(1), np.inf, np.abs(costs[1:] - costs[0]))
        best = int(gaps.argmin())
        if math.isinf(gaps[best]):
            return first  # every candidate equals the first
        return rows[best].tolist()

    def _sample_weights(self, indices: np.ndarray, explored: bool) -> np.ndarray:
        """Return the weight of each sample in the update of theta, (samples,)."""
        if not explored or self.settings.exploration_update == "plain":
            return np.ones(len(indices))
        if self.settings.exploration_update == "skip":
            return np.zeros(len(indices))
        # min(1, P_theta / pi): samples that theta would not draw count less.
        return np.array([math.exp(min(0.0, self.distribution.log_ratio(row))) for row in indices])
