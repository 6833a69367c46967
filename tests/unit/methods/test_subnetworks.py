"""Scores of the deployed sub-networks of a super-network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raycomp.encoder.architecture import Architecture
from raycomp.methods import subnetworks
from raycomp.search.outcome import Outcome
from raycomp.training.evaluation import Score

ARCH = Architecture(1, (2,), (16,))


@pytest.mark.parametrize(("precision", "expected"), [("bf16", 0.75), ("fp32", 0.8)])
def test_selection_and_validation_have_one_precision(
    precision: str, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search in bf16 chooses; the score of its choice is measured again in fp32, like validation."""
    splits = []

    def score(forward: Any, split: str, *, is_cut: bool = False) -> Score:
        splits.append(split)
        assert forward("batch") == ("batch", ARCH)
        return Score({"accuracy": 0.75}, 0.5, 8)

    def run_slice(batch: Any, arch: Architecture) -> Any:
        return SimpleNamespace(logits=(batch, arch))

    context = SimpleNamespace(primary="accuracy", chosen_precision=lambda: precision)
    run: Any = SimpleNamespace(context=context, score=score)
    monkeypatch.setattr(subnetworks, "_load_supernet", lambda context: run_slice)
    best = Outcome("half", "params", 9.0, "sng", 0, ARCH.to_json(), 0.8, 0.4, 12, 1.0)
    measured = subnetworks._best_in_fp32(run, best)
    assert measured.value == expected
    assert splits == (["selection"] if precision == "bf16" else [])

    infeasible = Outcome("half", "params", 9.0, "sng", 0, None, 0.0, 0.0, 0, 1.0, "too small")
    assert subnetworks._best_in_fp32(run, infeasible) is infeasible


def test_the_lowest_loss_decides_between_searches_that_choose_by_a_smoothed_loss() -> None:
    # The second has the higher score, which may be luck.
    first = Outcome("half", "params", 9.0, "rated", 0, ARCH.to_json(), 0.80, 0.40, 12, 1.0)
    second = Outcome("half", "params", 9.0, "rated", 1, ARCH.to_json(), 0.82, 0.45, 12, 1.0)
    infeasible = Outcome("half", "params", 9.0, "random", 0, None, 0.0, 0.0, 0, 1.0, "too small")
    outcomes = [infeasible, first, second]
    assert subnetworks.best_outcome(outcomes, smoothing=0.5) is first
    assert subnetworks.best_outcome(outcomes, smoothing=0.0) is second
    assert subnetworks.best_outcome([infeasible], smoothing=0.5) is infeasible
    # HAT's form.
    assert subnetworks.best_outcome(outcomes, smoothing=0.0, choose_by="loss") is first
