"""The structures that are scored after the search, and the choice among them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raycomp.methods.adabert.candidates import best_rows, draw_candidates
from raycomp.methods.adabert.finalists import round_sizes
from raycomp.methods.adabert.gumbel import Distribution
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import OPERATIONS, Structure
from tests.unit.methods.adabert.builders import SHAPE


def certain_distribution() -> Distribution:
    """Return P_alpha that has decided on two cells of `skip`, but for one edge."""
    distribution = Distribution(3, 3, OPERATIONS)
    with torch.no_grad():
        distribution.layers[1] = 50.0
        distribution.operations[1:, OPERATIONS.index("skip")] = 50.0
    return distribution


def test_candidates_are_different_and_half_of_them_come_from_p_alpha() -> None:
    distribution = certain_distribution()
    structures = draw_candidates(distribution, 5, seed=0)
    assert structures[0] == distribution.most_likely()
    assert len({structure.id for structure in structures}) == len(structures) == 11
    is_of_p_alpha = [s.layers == 2 and set(s.operations[1:]) == {"skip"} for s in structures]
    assert is_of_p_alpha == [True] * 6 + [False] * 5
    assert structures == draw_candidates(distribution, 5, seed=0)
    assert structures != draw_candidates(distribution, 5, seed=1)


def test_a_distribution_that_is_certain_gives_fewer_candidates() -> None:
    distribution = certain_distribution()
    with torch.no_grad():
        distribution.operations[0, 0] = 50.0
    assert len(draw_candidates(distribution, 5, seed=0)) == 1 + 5


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, [4, 2]),
        ({"finalists": 5}, [5, 2]),
        ({"finalists": 1}, []),
        ({"candidates": 2}, [2]),
        ({"candidates": 0}, []),
        ({"child_epochs": 0.0}, []),
        ({"structure": "random:0"}, []),
    ],
)
def test_each_round_keeps_the_better_half(changes: dict[str, Any], sizes: list[int]) -> None:
    assert round_sizes(AdabertSettings(**changes)) == sizes


def test_the_paper_s_form_is_one_key_away() -> None:
    paper = AdabertSettings(alpha_updates=0, candidates=0)
    assert not round_sizes(paper)


@pytest.mark.parametrize(("beta", "first"), [(0.0, "large"), (400.0, "small")])
def test_the_choice_weighs_the_loss_and_the_price_of_size(beta: float, first: str) -> None:
    structures = {
        "large": Structure(3, ("std_conv_7",) * 9),
        "small": Structure(1, ("skip",) * 9),
        "worse": Structure(3, ("std_conv_7",) * 9),
    }
    losses = {"large": 0.40, "small": 0.42, "worse": 0.50}
    rows = [{"name": n, "arch": s.to_json(), "loss": losses[n]} for n, s in structures.items()]
    settings = AdabertSettings()
    job = SimpleNamespace(settings=lambda section: settings)
    data: Any = SimpleNamespace(job=job, student_shape=SHAPE)

    ranked = [row["name"] for row in best_rows(data, rows, 2, beta, layers=3)]
    assert ranked[0] == first
    assert len(ranked) == 2
    assert "worse" not in ranked
