"""The picture of a searched cell."""

from __future__ import annotations

from xml.etree import ElementTree

from raycomp.methods.adabert.drawing import draw_structure
from raycomp.methods.adabert.structure import OPERATIONS, Structure


def test_the_drawing_shows_every_edge_except_zero() -> None:
    structure = Structure(4, OPERATIONS[1:])
    root = ElementTree.fromstring(draw_structure(structure))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for name in OPERATIONS[1:-1]:
        assert name in texts
    assert "zero" not in texts
    assert any("4 cells" in str(text) for text in texts)
