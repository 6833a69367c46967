"""Structures as values, and the edges of a cell."""

from __future__ import annotations

import pytest

from raycomp.errors import UserError
from raycomp.methods.adabert.structure import OPERATIONS, Structure, cell_edges
from tests.unit.methods.adabert.builders import seeded_structure


def test_nine_edges_and_ten_operations() -> None:
    assert cell_edges(3) == [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (0, 4), (1, 4), (2, 4), (3, 4)]
    assert len(OPERATIONS) == 10


def test_a_structure_round_trips_and_wrong_ones_are_refused() -> None:
    structure = seeded_structure(0)
    assert Structure.from_json(structure.to_json()) == structure
    assert Structure.from_json(structure.to_json()).id == structure.id
    no_cells = structure.to_json().replace('"layers":3', '"layers":0')
    for text in ("{", '{"layers": 0}', "[]", no_cells):
        with pytest.raises(UserError):
            Structure.from_json(text)
    with pytest.raises(UserError, match="unknown operation 'conv'"):
        Structure(1, ("conv",) * 9)
    with pytest.raises(UserError, match="exactly 9 operations"):
        Structure(1, ("skip",) * 8)
