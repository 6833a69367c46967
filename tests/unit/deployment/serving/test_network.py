"""A served network gives the results of transformers' own pipeline of tokenizer and model."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from transformers import BertForSequenceClassification

from raycomp.deployment.runtimes import model_forward
from raycomp.deployment.serving.network import MAX_BATCH, ServedNetwork
from tests.conftest import BAD, GOOD, make_tokenizer


@pytest.fixture
def model(tuned_model: Path) -> Any:
    return BertForSequenceClassification.from_pretrained(tuned_model).eval()


def make_network(model: Any, labels: tuple[str, ...] = ("bad", "good")) -> ServedNetwork:
    return ServedNetwork("half", model_forward(model), make_tokenizer(), labels, 12, 25, {})


def expected_scores(model: Any, *texts: str) -> torch.Tensor:
    tokens = make_tokenizer()(*texts, truncation=True, max_length=12, return_tensors="pt")
    with torch.inference_mode():
        return model(**tokens).logits[0].softmax(0)


def test_results_have_the_order_of_the_texts_whatever_their_lengths(model: Any) -> None:
    texts = [("the film was " * (i % 3)) + (GOOD + BAD)[i % 10] for i in range(MAX_BATCH + 9)]

    results = make_network(model).predict(texts, None).results

    for text, result in zip(texts, results, strict=True):
        scores = expected_scores(model, text)
        assert list(result["scores"]) == ["bad", "good"]
        assert torch.allclose(torch.tensor(list(result["scores"].values())), scores, atol=1e-5)
        assert result["label"] == ("bad", "good")[int(scores.argmax())]
        assert result["score"] == max(result["scores"].values())


def test_pairs_have_token_types(model: Any) -> None:
    (result,) = make_network(model).predict(["a fine film"], ["a dull plot"]).results

    scores = expected_scores(model, "a fine film", "a dull plot")
    assert torch.allclose(torch.tensor(list(result["scores"].values())), scores, atol=1e-5)


def test_a_text_with_too_many_tokens_is_cut_and_says_so(model: Any) -> None:
    whole, cut = make_network(model).predict(["fine film", "fine " + "film " * 5000], None).results

    assert "cut" not in whole
    assert cut["cut"] is True


def test_a_regression_has_a_value(model: Any) -> None:
    (result,) = make_network(model, ()).predict(["a fine film"], None).results
    assert list(result) == ["value"]


def test_the_time_of_the_forward_passes_leaves_out_the_tokenizer(model: Any) -> None:
    """The policy compares it with times of forward passes."""
    network = make_network(model)
    tokenizer = network.tokenizer

    def read_slowly(*args: Any, **options: Any) -> Any:
        time.sleep(0.1)
        return tokenizer(*args, **options)

    slow = Mock(side_effect=read_slowly, pad_token_id=tokenizer.pad_token_id)
    predictions = replace(network, tokenizer=slow).predict(["a fine film"], None)

    assert 0 < predictions.forward_ms < 100


def test_the_speed_of_a_network_is_measured(model: Any) -> None:
    speed = make_network(model).measure_speed()
    assert speed.batch_ms(32) >= speed.batch_ms(1) > 0
