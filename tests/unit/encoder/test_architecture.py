from __future__ import annotations

import pytest

from raycomp.encoder.architecture import Architecture, enclosing_architecture
from raycomp.errors import UserError


def test_json_round_trip_and_one_id() -> None:
    arch = Architecture(2, (4, 8), (512, 768))
    again = Architecture.from_json('{ "ffn": [512, 768], "heads": [4, 8], "depth": 2 }')
    assert again == arch
    assert again.id == arch.id
    assert len({arch, again}) == 1
    assert Architecture(2, (8, 4), (512, 768)).id != arch.id


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"depth":1,"heads":[1.5],"ffn":[2]}', '{"depth":2,"heads":[1],"ffn":[2]}']
)
def test_what_is_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="architecture"):
        Architecture.from_json(text)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="depth 2"):
        Architecture(2, (1,), (1,))


def test_the_first_layers_have_one_value_however_they_are_written() -> None:
    plain = Architecture(2, (4, 8), (512, 768))
    written = Architecture(2, (4, 8), (512, 768), (0, 1))
    assert written == plain
    assert written.id == plain.id == "6c2129fb2fe67f39"
    assert plain.to_json() == '{"depth":2,"heads":[4,8],"ffn":[512,768]}'
    assert plain.layer_indices == (0, 1)


def test_layers_are_part_of_the_value() -> None:
    arch = Architecture(2, (4, 0), (0, 768), (1, 5))
    assert arch.to_json() == '{"depth":2,"heads":[4,0],"ffn":[0,768],"layers":[1,5]}'
    assert Architecture.from_json(arch.to_json()) == arch
    assert arch.layer_indices == (1, 5)
    assert arch.id != Architecture(2, (4, 0), (0, 768)).id


@pytest.mark.parametrize("layers", [(1,), (1, 1), (2, 1), (-1, 1), (0, 1, 2)])
def test_layers_are_ascending_and_as_many_as_the_depth(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        Architecture(2, (1, 1), (1, 1), layers)


def test_widths_are_not_negative() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        Architecture(1, (-1,), (1,))


def test_the_enclosing_architecture_has_every_layer_with_its_largest_width() -> None:
    enclosing = enclosing_architecture(
        [Architecture(2, (4, 0), (16, 0), (0, 2)), Architecture(2, (1, 2), (32, 8))]
    )
    assert enclosing == Architecture(3, (4, 2, 0), (32, 8, 0))
    assert enclosing.layers is None
    assert enclosing_architecture([Architecture(1, (2,), (8,), (4,))]).layers == (4,)
