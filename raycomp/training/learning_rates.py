"""Learning rates that a job leaves open."""

from __future__ import annotations

from typing import Literal

LARGEST_RATE = 3e-4
"""Rate of an encoder with hidden states of `REFERENCE_WIDTH` features or fewer."""

REFERENCE_WIDTH = 384
"""Width of the encoder that `LARGEST_RATE` was chosen on, MiniLM-L6."""

LATE_DECAY_START = 0.8
"""Share of a training with `train.schedule = "late"` before its rate falls."""


def choose_learning_rate(setting: float | Literal["auto"], hidden_size: int) -> float:
    """Return the largest learning rate of a training that starts from the teacher's weights.

    The rate of Adam that suits a network falls as one over its width (Yang et al. 2022, "Tensor Programs
    V", table 3).

    Args:
        setting: The rate that the job sets, or "auto".
        hidden_size: Width of the hidden states.

    Example:
        >>> choose_learning_rate("auto", 384), choose_learning_rate("auto", 768)
        (0.0003, 0.00015)
    """
    if setting != "auto":
        return setting
    return LARGEST_RATE * min(1.0, REFERENCE_WIDTH / hidden_size)


def constant_share(schedule: str) -> float:
    """Return the share of a training before its rate falls, as `train.schedule` says."""
    return LATE_DECAY_START if schedule == "late" else 0.0
