"""Random structures of equal size, and the difference that the benchmark prints."""

from __future__ import annotations

import random
from typing import Any

import pytest

from benchmarks.random_cells import cell_params, draw_equal_size, summarise
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import Structure

SEARCHED = Structure(2, ("std_conv_3", "std_conv_5", "skip", "max_pool_3", "dil_conv_7", *("zero",) * 4))


def test_random_structures_have_the_depth_and_the_size_of_the_searched_one() -> None:
    settings = AdabertSettings()
    rng = random.Random(0)
    drawn = [draw_equal_size(SEARCHED, settings, rng) for _ in range(20)]
    wanted = cell_params(SEARCHED, settings.width)
    assert {structure.layers for structure in drawn} == {2}
    assert all(abs(cell_params(s, settings.width) - wanted) <= 0.1 * wanted for s in drawn)
    assert len({structure.id for structure in drawn}) == 20
    assert SEARCHED not in drawn


def as_rows(differences: list[float]) -> list[dict[str, Any]]:
    """Return one searched and two random structures per seed, around a mean of .8."""
    rows = []
    for seed, difference in enumerate(differences):
        for name, score in (("searched", 0.8 + difference), ("random-0", 0.79), ("random-1", 0.81)):
            rows.append(
                {"run_seed": seed, "name": name, "start": "scratch", "scores": {"validation": score}}
            )
    return rows


def test_the_summary_is_the_mean_difference_with_its_interval() -> None:
    line = summarise(as_rows([0.01, 0.02, 0.03]), "scratch", "validation")
    # Student's t of two degrees of freedom is 4.30; the error of the mean is 1 / sqrt(3) points.
    assert "searched - random +2.00 points (-0.48 to +4.48), 3 repetitions" in line
    assert "1.41 points (deviation)" in line


@pytest.mark.parametrize("start", ["inherited", "scratch"])
def test_a_repetition_without_random_structures_does_not_count(start: str) -> None:
    rows = [row for row in as_rows([0.01]) if row["name"] == "searched"]
    assert "no repetition" in summarise(rows, start, "validation")
