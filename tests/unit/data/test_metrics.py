"""The positive class of F1."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from raycomp.data.metrics import compute, find_positive
from raycomp.errors import UserError

LABELS = np.array([0, 0, 0, 1, 1, 0, 1, 1])
PREDICTED = np.array([0, 0, 1, 1, 0, 0, 1, 0])
LOGITS = np.eye(2, dtype=np.float32)[PREDICTED]


@pytest.mark.parametrize("positive", [0, 1])
def test_f1_is_that_of_the_positive_class(positive: int) -> None:
    expected = f1_score(LABELS, PREDICTED, pos_label=positive)
    assert compute(["f1"], LABELS, LOGITS, positive=positive)["f1"] == expected
    both = compute(["accuracy_f1", "accuracy"], LABELS, LOGITS, positive=positive)
    assert both["accuracy_f1"] == pytest.approx((expected + both["accuracy"]) / 2)
    assert f1_score(LABELS, PREDICTED, pos_label=0) != f1_score(LABELS, PREDICTED, pos_label=1)


@pytest.mark.parametrize("positive", [0, 1])
def test_f1_of_rows_without_one_class_is_defined(positive: int) -> None:
    for constant in (0, 1):
        labels = np.full(4, constant)
        logits = np.eye(2, dtype=np.float32)[labels]
        assert compute(["f1"], labels, logits, positive=positive)["f1"] == float(constant == positive)


def test_the_positive_class_is_found_by_name() -> None:
    assert find_positive(None, ("fraud", "legit"), "classification") == 1
    assert find_positive("fraud", ("fraud", "legit"), "classification") == 0
    with pytest.raises(UserError, match=r"'spam' is not a class of the task\. Classes: fraud, legit"):
        find_positive("spam", ("fraud", "legit"), "classification")
    with pytest.raises(UserError, match="this task has 3 classes"):
        find_positive("a", ("a", "b", "c"), "classification")
    with pytest.raises(UserError, match="a regression"):
        find_positive("a", (), "regression")
