from __future__ import annotations

import pytest

from raycomp.encoder.label_matching import match_outputs

MNLI = ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(
    ("named", "classes", "order"),
    [
        (("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), MNLI, [2, 1, 0]),
        (("entailment", "neutral", "contradiction"), MNLI, None),
        (("Not Equivalent", "equivalent"), ("not_equivalent", "equivalent"), None),
        (("spam", "ham"), ("ham", "spam"), [1, 0]),
        (("b", "c", "a"), ("a", "b", "c"), [2, 0, 1]),
        (("LABEL_0", "LABEL_1"), ("negative", "positive"), None),
        (("NEGATIVE", "POSITIVE"), ("0", "1"), None),
        (("1 star", "2 stars"), ("-1", "0.5"), None),
        (("1.0", "0.0"), ("0", "1"), [1, 0]),
        (("1", "-1"), ("-1", "1"), [1, 0]),
        (("11", "1_1"), ("1_1", "11"), [1, 0]),
        (("re-sign", "resign"), ("resign", "re-sign"), [1, 0]),
    ],
)
def test_outputs_are_matched_by_name(
    named: tuple[str, ...], classes: tuple[str, ...], order: list[int] | None
) -> None:
    assert match_outputs(dict(enumerate(named)), classes, in_order=False) == order


@pytest.mark.parametrize(
    "named", [("neg", "pos"), ("positive", "positive"), ("LABEL_0", "positive"), ("negative",)]
)
def test_names_that_say_something_else_are_not_guessed(named: tuple[str, ...]) -> None:
    classes = ("negative", "positive")
    with pytest.raises(ValueError, match=r"outputs named .* classes are negative, positive"):
        match_outputs(dict(enumerate(named)), classes, in_order=False)
    assert match_outputs(dict(enumerate(named)), classes, in_order=True) is None
