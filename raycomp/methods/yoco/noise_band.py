"""What EE-SNG's controller does on random losses: a training that taught theta something must differ.

The entropy of theta and K fall in any training, by drift. This module repeats a training's draws and
updates with random numbers in place of the losses and with several seeds. Without a network, a step takes
less than a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raycomp.methods.yoco.eesng import EESNG

REPETITIONS = 20
MIN_REPETITIONS = 5
MAX_SIMULATED_STEPS = 20_000
"""Steps of all repetitions together: about eight seconds."""

BAND = (0.025, 0.975)
"""Quantiles of the repetitions that bound the band."""


@dataclass(frozen=True)
class NoiseTrace:
    """What a sampler did on random losses.

    Attributes:
        entropy: rho at each step, in nats, (steps,).
        exploit_probability: K at each step, (steps,).
        explored: Whether each step drew uniformly, (steps,).
    """

    entropy: np.ndarray
    exploit_probability: np.ndarray
    explored: np.ndarray


@dataclass(frozen=True)
class ControllerBand:
    """Quantiles `BAND` of the repetitions at each step.

    Attributes:
        entropy: (2, steps), in nats: the lower and the upper bound.
        exploit_probability: (2, steps).
        repetitions: Number of repetitions.
    """

    entropy: np.ndarray
    exploit_probability: np.ndarray
    repetitions: int


def count_repetitions(steps: int) -> int:
    """Return how often a training of that many steps is repeated; 0 if it is too long for a band."""
    repetitions = min(REPETITIONS, MAX_SIMULATED_STEPS // max(1, steps))
    if repetitions < MIN_REPETITIONS:
        return 0
    return repetitions


def run_on_noise(sampler: EESNG, seed: int) -> NoiseTrace:
    """Train a new sampler to its end, with normal random numbers as losses.

    Args:
        sampler: Sampler before its first step.
        seed: Seed of the losses.
    """
    rng = np.random.default_rng([seed, 1])
    total = sampler.schedule.total
    trace = NoiseTrace(np.empty(total), np.empty(total), np.zeros(total, bool))

    for step in range(total):
        archs = sampler.ask(step)
        info = sampler.info(step)

        trace.entropy[step] = info["entropy"]
        trace.exploit_probability[step] = info["p_exploit"]
        trace.explored[step] = info["explored"]
        sampler.tell(step, rng.normal(size=len(archs)).tolist())
    return trace


def controller_band(make_sampler: Callable[[int], EESNG], repetitions: int) -> ControllerBand:
    """Return the band of entropy and K.

    Args:
        make_sampler: Function from a seed to a sampler before its first step.
        repetitions: Number of repetitions.
    """
    traces = [run_on_noise(make_sampler(seed), seed) for seed in range(repetitions)]
    return ControllerBand(
        np.quantile([trace.entropy for trace in traces], BAND, axis=0),
        np.quantile([trace.exploit_probability for trace in traces], BAND, axis=0),
        repetitions,
    )
