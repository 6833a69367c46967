"""The order in which INT8 forms are tried, and when each is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.deployment import int8_steps, quantisation
from raycomp.deployment.int8_steps import (
    MAX_LOSS,
    Attempt,
    Judgement,
    describe_attempts,
    loss_limit,
    write_int8,
)
from raycomp.deployment.quantisation import Int8Form, Operation, rank_groups

ENCODER = [Operation("words", "Gather"), *(Operation(f"product{i}", "MatMul") for i in range(24))]
CNN = [Operation("words", "Gather"), Operation("conv", "Conv"), Operation("head", "Gemm")]
GOOD = Judgement(0.004, 1.5)
INACCURATE = Judgement(0.006, 1.5)
SLOW = Judgement(0.0, 0.9)


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> list[Int8Form]:
    """The forms that were written, in order; no file of ONNX is read."""
    written: list[Int8Form] = []

    def write(source: Path, target: Path, form: Int8Form, *_: Any, **__: Any) -> None:
        written.append(form)
        target.write_text(form.name)

    def rank(source: Path, operations: list[Operation], *_: Any, **__: Any) -> list[Any]:
        products = operations[1:]
        return [tuple(products[i : i + 6]) for i in range(18, -1, -6)]

    monkeypatch.setattr(int8_steps, "quantise", write)
    monkeypatch.setattr(int8_steps, "rank_groups", rank)
    return written


def try_forms(
    operations: list[Operation], judgements: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Attempt]:
    left = iter(judgements)

    def judge(path: Path) -> Judgement:
        judgement = next(left)
        if isinstance(judgement, Exception):
            raise judgement
        return judgement

    monkeypatch.setattr(int8_steps, "find_operations", lambda path: operations)
    target = tmp_path / "int8.onnx"
    attempts = write_int8(tmp_path / "model.onnx", target, [], judge, reduce_range=False)
    assert next(left, None) is None
    assert target.exists() == (bool(attempts) and not attempts[-1].problem)
    return attempts


def test_a_good_first_form_is_taken(
    forms: list[Int8Form], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = try_forms(ENCODER, [GOOD], tmp_path, monkeypatch)
    assert [(a.form, a.problem) for a in attempts] == [("dynamic", "")]
    assert forms[0].operations == tuple(ENCODER)
    assert describe_attempts(attempts) == ""


def test_lost_accuracy_restores_layers_and_then_calibrates(
    forms: list[Int8Form], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = try_forms(ENCODER, [INACCURATE, INACCURATE, INACCURATE, GOOD], tmp_path, monkeypatch)
    assert [(f.is_static, len(f.operations)) for f in forms] == [
        (False, 25),
        (False, 19),
        (False, 13),
        (True, 25),
    ]
    # The group that rank_groups puts first is restored first.
    assert ENCODER[-1] not in forms[1].operations
    assert ENCODER[1] in forms[2].operations
    text = describe_attempts(attempts)
    assert "INT8 (dynamic) is refused: it loses 0.60 points." in text
    assert text.endswith("The file is INT8 (static).")


EMBEDDINGS = (ENCODER[0],)


@pytest.mark.parametrize(
    ("ranked", "kept"),
    [
        # The word table is the most sensitive group: it comes first, without any layer.
        ([EMBEDDINGS, *(tuple(ENCODER[i : i + 2]) for i in range(1, 25, 2))], ["e", "e4", "e10"]),
        ([tuple(ENCODER[1:13]), EMBEDDINGS, tuple(ENCODER[13:])], ["12"]),
        ([EMBEDDINGS, tuple(ENCODER[1:])], ["e"]),
        ([tuple(ENCODER[1:])], ["24"]),
    ],
)
def test_embeddings_stay_in_fp32_where_they_are_sensitive(
    ranked: list[tuple[Operation, ...]],
    kept: list[str],
    forms: list[Int8Form],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(int8_steps, "rank_groups", lambda *_, **__: ranked)
    judgements = [INACCURATE] * (1 + len(kept)) + [GOOD]
    attempts = try_forms(ENCODER, judgements, tmp_path, monkeypatch)

    names = {
        "e": "embeddings",
        "e4": "embeddings and 4 most sensitive products",
        "e10": "embeddings and 10 most sensitive products",
        "12": "12 most sensitive products",
        "24": "24 most sensitive products",
    }
    expected = [f"dynamic, {names[name]} in fp32" for name in kept]
    assert [attempt.form for attempt in attempts] == ["dynamic", *expected, "static"]
    for form, name in zip(forms[1:-1], kept, strict=True):
        assert (ENCODER[0] in form.operations) == (not name.startswith("e"))


def test_layers_that_cannot_be_ranked_leave_the_static_forms(
    forms: list[Int8Form], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> list[Any]:
        raise RuntimeError("the trial file cannot be loaded")

    monkeypatch.setattr(int8_steps, "rank_groups", fail)
    attempts = try_forms(ENCODER, [INACCURATE, GOOD], tmp_path, monkeypatch)
    assert [form.name for form in forms] == ["dynamic", "static"]
    text = describe_attempts(attempts)
    assert "cannot compare the layers: the trial file cannot be loaded." in text
    assert text.endswith("The file is INT8 (static).")


def test_a_ranking_that_fails_leaves_no_trial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = iter([torch.zeros(1)])

    def write(source: Path, target: Path, *_: Any, **__: Any) -> None:
        target.write_text("a file that cannot be loaded")

    monkeypatch.setattr(quantisation, "quantise", write)
    monkeypatch.setattr(quantisation, "_logits", lambda path, calibration: next(logits))
    with pytest.raises(StopIteration):
        rank_groups(tmp_path / "model.onnx", ENCODER, [], tmp_path, reduce_range=False)
    assert list(tmp_path.iterdir()) == []


def test_a_static_form_that_loses_accuracy_is_smoothed(
    forms: list[Int8Form], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = try_forms(ENCODER, [SLOW, INACCURATE, GOOD], tmp_path, monkeypatch)
    assert [(f.is_static, f.is_smoothed) for f in forms] == [(False, False), (True, False), (True, True)]
    assert describe_attempts(attempts).endswith("The file is INT8 (static, smoothed).")


def test_a_slow_form_is_not_made_slower(
    forms: list[Int8Form], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = try_forms(ENCODER, [SLOW, SLOW], tmp_path, monkeypatch)
    assert [f.name for f in forms] == ["dynamic", "static"]
    assert "takes 1.11 times as long as fp32" in attempts[0].problem
    assert describe_attempts(attempts).endswith("Use the file in fp32.")


def test_a_cnn_is_calibrated_first(
    forms: list[Int8Form], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = RuntimeError("MatmulInteger : b zero point is not valid")
    attempts = try_forms(CNN, [failure, GOOD], tmp_path, monkeypatch)
    assert [(f.is_static, len(f.operations)) for f in forms] == [(True, 3), (False, 2)]
    assert "cannot run it: MatmulInteger" in attempts[0].problem
    assert attempts[0].loss is None


def test_a_model_without_products_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = try_forms([], [], tmp_path, monkeypatch)
    assert attempts == []
    assert "INT8 would change nothing" in describe_attempts(attempts)


@pytest.mark.parametrize("loss", [-0.02, 0.0, 0.005])
def test_half_a_point_is_the_limit(loss: float) -> None:
    assert Judgement(loss, 1.0).is_accurate
    assert Judgement(loss, 1.0).is_fast
    assert not Judgement(0.0051, 1.0).is_accurate
    assert not Judgement(float("nan"), 1.0).is_accurate


def test_a_metric_of_the_user_s_may_lose_a_share_of_its_value() -> None:
    """A profit of 2,000 may fall by 10; half a point would refuse every INT8 file."""
    assert loss_limit(0.8, is_own_metric=False) == MAX_LOSS
    limit = loss_limit(-2000.0, is_own_metric=True)
    assert limit == pytest.approx(10.0)
    assert Judgement(9.0, 1.0, limit, is_own_metric=True).problem == ""
    problem = Judgement(11.0, 1.0, limit, is_own_metric=True).problem
    assert problem == "it loses 11 of the metric, more than 10"


def test_a_form_within_the_limit_of_a_user_s_metric_is_not_taken_for_inaccurate(
    forms: list[Int8Form], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is slow: layers in fp32 would not help, so only the static form is tried."""
    slow = Judgement(9.0, 0.9, 10.0, is_own_metric=True)
    attempts = try_forms(ENCODER, [slow, slow], tmp_path, monkeypatch)
    assert [a.form for a in attempts] == ["dynamic", "static"]


def test_a_refusal_names_its_batch_and_the_batches_at_which_the_form_is_faster(
    forms: list[Int8Form], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = "At batch 32 it is 1.30 times as fast as fp32: --batch 32 measures and judges there."
    slow = Judgement(0.0, 1 / 1.3, batch=1, hint=hint)
    text = describe_attempts(try_forms(ENCODER, [slow, SLOW], tmp_path, monkeypatch))
    first = "INT8 (dynamic) is refused: it takes 1.30 times as long as fp32 at batch 1."
    assert text.startswith(f"{first} {hint} INT8 (static) is refused: ")
    assert text.endswith("Use the file in fp32.")
