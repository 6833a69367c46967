"""The benchmark of the signal: its verdict, and the half of the validation rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import heal_settings, signal
from benchmarks.signal import better_than_chance, judge, score_validation


@pytest.mark.parametrize(
    ("reliable", "low", "high", "verdict"),
    [
        (0.93, 0.13, 0.46, "better than chance"),
        (0.93, -0.1, 0.46, "not shown"),
        (0.93, -0.4, -0.1, "worse than chance"),
        # An order of networks that do not differ says nothing.
        (0.4, 0.13, 0.46, "no difference to find"),
        (float("nan"), 0.13, 0.46, "no difference to find"),
    ],
)
def test_the_verdict_names_a_difference_only_where_there_is_one(
    reliable: float, low: float, high: float, verdict: str
) -> None:
    figures = {"reliable": reliable, "tau_theta_low": low, "tau_theta_high": high}
    assert verdict in judge(figures)
    assert "too few" in judge({"chance": 60.0})


def test_noise_has_no_difference_to_find_and_a_spread_has() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 400))
    interval = {"tau_theta_low": 0.1, "tau_theta_high": 0.4}
    spread = noise + 0.2 * rng.normal(size=(40, 1))
    verdicts = [judge({"reliable": signal.reliability(x, rng), **interval}) for x in (noise, spread)]
    assert [verdict.split(":")[0] for verdict in verdicts] == [
        "no difference to find",
        "theta orders the networks better than chance",
    ]


def test_a_half_has_its_rows_of_losses_hits_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = {"a": np.array([0, 2]), "b": np.array([1, 3]), None: np.arange(4)}
    monkeypatch.setattr(signal, "kept_rows", lambda context, half: halves[half])
    losses = np.arange(8.0).reshape(2, 4)
    monkeypatch.setattr(signal, "score_rows", lambda *arguments: (losses, losses > 2))
    tokens = SimpleNamespace(labels=[0, 1, 2, 3])
    context: Any = SimpleNamespace(tokens=lambda name: tokens, validation_names=lambda: ["validation"])
    parts = {half: score_validation(None, [], context, half) for half in halves}  # type: ignore[arg-type]
    assert parts["a"][0].tolist() == [[0, 2], [4, 6]]
    assert parts["b"][1].tolist() == [[False, True], [True, True]]
    assert parts["b"][2].tolist() == [1, 3]
    assert parts[None][0].tolist() == losses.tolist()


def test_chance_is_the_largest_class_of_the_rows_that_count() -> None:
    hits = np.zeros((2, 100), bool)
    hits[0, :70] = hits[1, :99] = True
    assert better_than_chance(hits, np.array([0] * 80 + [1] * 20)).tolist() == [1]
    assert better_than_chance(hits, np.array([0] * 50 + [1] * 50)).tolist() == [0, 1]


def test_healed_networks_are_scored_on_the_half_of_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored = []
    score = SimpleNamespace(values={"accuracy": 0.5}, loss=0.7)
    prediction = SimpleNamespace(value=lambda metric: 0.6)
    monkeypatch.setattr(heal_settings, "selection_logits", lambda *a: np.zeros((2, 2)))
    monkeypatch.setattr(heal_settings, "score_logits", lambda *a: score)
    monkeypatch.setattr(heal_settings, "kept_rows", lambda context, half: half)
    monkeypatch.setattr(heal_settings, "predict", lambda *a: scored.append(a[2]) or prediction)
    facts = SimpleNamespace(positive=1)
    context: Any = SimpleNamespace(
        tokens=lambda name: None, metrics=("accuracy",), primary="accuracy", facts=facts
    )
    for half in ("a", None):
        network: Any = None
        heal_settings.score_network(context, network, np.zeros((2, 2)), half)
    assert scored == ["a", None]
