"""Heads that are not a family's classifier of texts: refused, unless the user wants a new classifier."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    ElectraConfig,
    ElectraForPreTraining,
)

from raycomp.encoder.pretrained import Checkpoint, load_checkpoint
from raycomp.errors import UserError
from tests.conftest import make_bert_config, make_tokenizer

LEFT_OUT = r"raycomp would leave it out.*teacher\.mode = 'train'"


def load(folder: Path, **changes: Any) -> Checkpoint:
    return load_checkpoint(str(folder), **{"num_labels": 2, "classes": ("bad", "good"), **changes})


def save(model_class: Any, folder: Path, config: Any = None) -> Path:
    torch.manual_seed(0)
    model_class(config or make_bert_config(num_labels=3)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def add(folder: Path, architecture: str | None, **tensors: list[int]) -> Path:
    """Add matrices to the weights of an encoder, and name the class that saved it."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights |= {name.replace("__", "."): torch.ones(shape) for name, shape in tensors.items()}
    save_file(weights, path, metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    settings["architectures"] = None if architecture is None else [architecture]
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("architecture", "tensors", "words"),
    [
        ("SentimentModel", {"head__weight": [3, 32]}, "head.weight (3 outputs)"),
        ("SentimentModel", {"net__4__weight": [3, 32], "net__0__weight": [32, 32]}, "net.4.weight"),
        ("SentimentModel", {"my_classifier__weight": [5, 32]}, "my_classifier.weight (5 outputs)"),
        ("MyForSequenceClassification", {"fc__weight": [2, 32]}, "fc.weight (2 outputs)"),
        (None, {"score__weight": [2, 32]}, "score.weight"),
    ],
)
def test_a_classifier_of_another_class_is_refused(
    architecture: str | None, tensors: dict[str, list[int]], words: str, tmp_path: Path
) -> None:
    folder = add(save(BertModel, tmp_path), architecture, **tensors)
    with pytest.raises(UserError, match=f"the head {re.escape(words)}.*{LEFT_OUT}"):
        load(folder)
    checkpoint = load(folder, new_classifier=True)
    assert not checkpoint.is_fine_tuned
    assert not checkpoint.head_note


def test_a_classifier_of_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"classifier\.weight \(3 outputs\).*{LEFT_OUT}"):
        load(save(BertForTokenClassification, tmp_path))


@pytest.mark.parametrize(
    "model_class", [BertModel, BertForMaskedLM, BertForPreTraining, BertForNextSentencePrediction]
)
def test_heads_of_pretraining_are_left_out(model_class: Any, tmp_path: Path) -> None:
    """The head of the next sentence has as many outputs as the configuration names by default."""
    checkpoint = load(save(model_class, tmp_path, make_bert_config(num_labels=2)))
    assert not checkpoint.is_fine_tuned
    assert not checkpoint.head_note


def test_the_head_of_electra_is_left_out(tmp_path: Path) -> None:
    config = ElectraConfig(
        vocab_size=make_bert_config().vocab_size,
        embedding_size=32,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=1,
    )
    assert not load(save(ElectraForPreTraining, tmp_path, config)).head_note


def test_matrices_that_are_probably_no_classifier_are_a_note(tmp_path: Path) -> None:
    """TinyBERT's map of states to the teacher's, SimCSE's projection, and a head that finds answers."""
    folder = add(
        save(BertModel, tmp_path / "tiny"), "TinyBertForPreTraining", fit_dense__weight=[768, 32]
    )
    assert "fit_dense.weight of" in load(folder).head_note
    folder = add(save(BertModel, tmp_path / "simcse"), "BertForCL", mlp__dense__weight=[32, 32])
    assert "mlp.dense.weight of" in load(folder).head_note
    folder = save(BertForQuestionAnswering, tmp_path / "answers", make_bert_config(num_labels=2))
    assert "qa_outputs.weight of" in load(folder).head_note


def test_a_classifier_of_texts_is_used(tmp_path: Path) -> None:
    checkpoint = load(save(BertForSequenceClassification, tmp_path, make_bert_config(num_labels=2)))
    assert checkpoint.is_fine_tuned
    assert not checkpoint.head_note
