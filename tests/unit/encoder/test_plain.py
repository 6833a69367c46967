"""The plain form is transformers' own model with the same logits, wherever the shapes allow it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.export import export_model, longest_text, verify_export
from raycomp.encoder.families import FAMILIES
from raycomp.encoder.layers import EncoderConfig
from raycomp.encoder.plain import PLAIN_LAYER_PREFIXES, explain_not_plain, find_family, make_plain
from raycomp.encoder.pretrained import load_encoder
from tests.conformance.test_families import MODELS
from tests.conftest import make_tokenizer, randomise_weights
from tests.unit.encoder.test_elastic import make_batch
from tests.unit.encoder.test_export import CARD

UNIFORM = Architecture(1, (4,), (16,))
"""One of two layers, all heads, a quarter of the neurons."""


def load_elastic(family: str, folder: Path) -> ElasticEncoder:
    theirs = MODELS[family]()
    randomise_weights(theirs)
    theirs.eval().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    ours, _, _ = load_encoder(str(folder), num_labels=3)
    return ElasticEncoder(ours).eval()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_uniform_network_is_a_class_of_transformers(family: str, tmp_path: Path) -> None:
    elastic = load_elastic(family, tmp_path / "theirs")
    network = elastic.extract(UNIFORM).eval()
    plain = make_plain(network)
    # RoBERTa and XLM-R have the same layers.
    same = {"xlm-roberta": "roberta"}
    assert plain.config.model_type == same.get(family, family)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in network.parameters())
    assert any(p in name for p in PLAIN_LAYER_PREFIXES for name, _ in plain.named_parameters())
    assert longest_text(plain.config) == network.config.max_positions

    out = tmp_path / "plain"
    names = ["a", "b", "c"]
    export_model(plain, make_tokenizer(), out, names, {**CARD, "arch": UNIFORM.to_json()})
    assert list(out.glob("*.py")) == []
    assert "trust_remote_code=True" not in (out / "README.md").read_text()
    batch = make_batch()
    proof = verify_export(out, plain, batch)
    assert proof["max_logit_difference"] == 0.0
    loaded = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert type(loaded).__name__.lower().startswith(same.get(family, family).replace("-", ""))
    # token types of the second text: DistilBERT and RoBERTa lack them.
    tokens = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    expected = network(**tokens).logits
    assert (loaded(**tokens).logits - expected).abs().max() < 1e-5
    assert AutoTokenizer.from_pretrained(out)("fine film")["input_ids"]


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        (Architecture(2, (4, 2), (16, 16)), "layer 2 has 2 of 4 heads"),
        (Architecture(2, (4, 4), (16, 64)), "layer 2 has 64 FFN neurons and layer 1 has 16"),
        (Architecture(1, (4,), (0,)), "layer 1 has 0 FFN neurons"),
        (Architecture(1, (0,), (64,)), "layer 1 has 0 of 4 heads"),
    ],
)
def test_other_networks_say_why_they_lack_a_plain_form(
    arch: Architecture, reason: str, tmp_path: Path
) -> None:
    elastic = load_elastic("bert", tmp_path)
    network = elastic.extract(arch)
    said = explain_not_plain(EncoderConfig.from_config(network.config))
    assert said is not None
    assert said.startswith(reason)
    with pytest.raises(ValueError, match="lacks a plain form"):
        make_plain(network)


def test_settings_that_no_class_has_are_refused() -> None:
    config = EncoderConfig(
        hidden_size=32, embedding_size=32, head_size=8, layer_heads=(4,), layer_ffn=(8,)
    )
    assert find_family(config) == "bert"
    assert explain_not_plain(config) is None
    # RoBERTa's classifier without its positions; BERT with projected embeddings.
    for changed in (replace(config, drop_before_pooler=True), replace(config, embedding_size=16)):
        assert find_family(changed) is None
        assert "do not fit" in str(explain_not_plain(changed))


def test_the_precision_of_the_weights_is_fp32(tmp_path: Path) -> None:
    elastic = load_elastic("bert", tmp_path)
    plain = make_plain(elastic.extract(UNIFORM))
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
