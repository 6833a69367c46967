from __future__ import annotations

import pytest

from raycomp.encoder.architecture import Architecture
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
