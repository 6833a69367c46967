"""Token types beyond a model's table are 0: a RoBERTa with BERT's tokenizer, and two texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

from raycomp.data.batches import collate
from raycomp.data.tasks import Split
from raycomp.data.tokens import tokenise
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.export import export_model, verify_export
from raycomp.encoder.pretrained import load_encoder
from tests.conftest import VOCABULARY, make_tokenizer, randomise_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A RoBERTa of one token type next to a tokenizer that sends two."""
    config = RobertaConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=40, type_vocab_size=1, pad_token_id=0,
    )  # fmt: skip
    model = RobertaForSequenceClassification(config)
    randomise_weights(model)
    model.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_pairs_of_a_model_with_one_token_type(folder: Path, tmp_path: Path) -> None:
    network, tokenizer, _ = load_encoder(str(folder), num_labels=2)
    texts = ["the film was fine", "a story"]
    split = Split("train", texts, ["its cast", "the plot was dull"], np.array([0, 1]))
    batch = collate(tokenise(split, lambda: tokenizer, "", 30, None), np.arange(2), 0)
    assert int(batch.token_type_ids.max()) == 1

    elastic = ElasticEncoder(network).eval()
    theirs = RobertaForSequenceClassification.from_pretrained(folder).eval()
    static = elastic.extract(elastic.largest)
    with torch.no_grad():
        expected = theirs(batch.input_ids, batch.attention_mask.long()).logits
        ours = elastic(batch).logits
        many = elastic.forward_many(batch, [elastic.largest])[0]
        rows = elastic.take_embedding_rows(batch.input_ids)
        embedded = elastic(batch, embedded=elastic.embed(batch, rows)).logits
    for logits in (ours, many, embedded):
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)

    export_model(
        static, tokenizer, tmp_path / "out", ("a", "b"), {"method": "m", "base_model": "b", "task": "t"}
    )
    assert verify_export(tmp_path / "out", static, batch)["max_logit_difference"] == 0
    with torch.no_grad():
        as_user = static(**tokenizer(texts, split.text_b, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(as_user, expected, atol=1e-5, rtol=0)
    # The exported tokenizer sends no types: a plain RoBERTa would fail on them.
    exported = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    tokens = exported(texts, split.text_b, padding=True, return_tensors="pt")
    assert "token_type_ids" not in tokens
    with torch.no_grad():
        torch.testing.assert_close(theirs(**tokens).logits, expected, atol=1e-5, rtol=0)
    assert "token_type_ids" in tokenizer(texts, split.text_b)
    # A gradient reaches the one type, as for a tokenizer without types.
    elastic(batch).logits.sum().backward()
    assert elastic.embeddings.token_type is not None
    assert elastic.embeddings.token_type.weight.grad is not None
