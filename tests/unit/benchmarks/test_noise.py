"""Figures without signal, which claims are compared with."""

from __future__ import annotations

import pytest

from benchmarks import noise


def test_on_noise_the_controller_drifts_with_a_constant_step_and_not_with_an_adaptive_one() -> None:
    """The phases of the study eesng; the published figures are means of 20 seeds."""
    k_constant, explored = noise.controller_on_noise("sng", noise.SCHEDULES[104], 0)
    k_adaptive, _ = noise.controller_on_noise("asng", noise.SCHEDULES[104], 0)
    assert k_constant == pytest.approx(0.54, abs=0.1)
    assert 0.2 < explored < 0.45
    assert k_adaptive > 0.9


def test_grown_proposals_use_the_limit_and_uniform_ones_do_not() -> None:
    uniform, grown = noise.proposal_shares(0.5, 0)
    assert uniform == pytest.approx(0.34, abs=0.03)
    assert grown == pytest.approx(0.49, abs=0.01)


def test_p_alpha_loses_entropy_on_noise() -> None:
    few, many = noise.p_alpha_on_noise(20, 4), noise.p_alpha_on_noise(80, 4)
    assert 0.97 < many.max() < few.min() < 1
