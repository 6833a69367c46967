from __future__ import annotations

import pytest

from raycomp.search.reward import constrained_reward


def test_within_the_budget_the_value_is_the_reward() -> None:
    assert constrained_reward(0.8, 10, 10, 100) == 0.8
    assert constrained_reward(0.8, 5, 10, 100, form="printed") == 0.8


def test_the_printed_form_rewards_violation_and_the_corrected_does_not() -> None:
    costs = [11, 40, 70, 100]
    printed = [constrained_reward(0.9, c, 10, 100, form="printed") for c in costs]
    corrected = [constrained_reward(0.9, c, 10, 100) for c in costs]
    assert printed == sorted(printed)
    assert printed[-1] == pytest.approx(0.9)  # the largest network keeps its whole accuracy
    assert corrected == sorted(corrected, reverse=True)
    assert corrected[-1] == 0.0


def test_by_hand() -> None:
    assert constrained_reward(0.9, 55, 10, 100, alpha=2) == pytest.approx(0.9 * 0.25)
    assert constrained_reward(0.9, 55, 10, 100, alpha=1) == pytest.approx(0.45)


def test_a_negative_metric_gains_nothing_by_violation() -> None:
    values = [constrained_reward(-0.2, c, 10, 100) for c in (10, 40, 100)]
    assert values == sorted(values, reverse=True)
