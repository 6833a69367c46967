"""One suite for every encoder family: in, out, and the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from raycomp.data.batches import Batch
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.families import FAMILIES, to_family
from raycomp.encoder.pretrained import load_encoder
from raycomp.errors import UserError
from tests.conftest import VOCABULARY, make_tokenizer, randomise_weights

COMMON = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40, "num_labels": 3}
BERT = {
    **COMMON, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64,
}  # fmt: skip
DISTIL = {**COMMON, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
ROBERTA = {**BERT, "pad_token_id": 1, "type_vocab_size": 1}
MODELS: dict[str, Any] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**BERT)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**ROBERTA)),
    "xlm-roberta": lambda: XLMRobertaForSequenceClassification(XLMRobertaConfig(**ROBERTA)),
    "electra": lambda: ElectraForSequenceClassification(ElectraConfig(**BERT, embedding_size=16)),
    "distilbert": lambda: DistilBertForSequenceClassification(DistilBertConfig(**DISTIL)),
}


@pytest.fixture(params=sorted(MODELS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_family_is_here() -> None:
    assert set(MODELS) == set(FAMILIES)


def test_same_logits_and_a_way_back(family: str, tmp_path: Path) -> None:
    theirs = MODELS[family]()
    randomise_weights(theirs)
    theirs.eval().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    ours, _, tuned = load_encoder(str(tmp_path), num_labels=3)
    assert tuned
    ids = torch.randint(5, 20, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9)[None, :] < torch.tensor([9, 5, 7, 2])[:, None]
    ids = torch.where(mask, ids, torch.tensor(theirs.config.pad_token_id))
    labels = torch.zeros(4, dtype=torch.long)
    batch = Batch(ids, mask, torch.zeros_like(ids), labels, np.arange(4), 4, int(mask.sum()))
    given = {"input_ids": ids, "attention_mask": mask.long()}
    logits = ElasticEncoder(ours).eval()(batch).logits
    assert (logits - theirs(**given).logits).abs().max() < 1e-5
    back = to_family(family, ours.config, dict(ours.state_dict()))
    for name, value in back.items():
        assert torch.equal(value, theirs.state_dict()[name])


def test_outputs_stand_in_the_task_s_order(family: str, tmp_path: Path) -> None:
    theirs = MODELS[family]()
    theirs.config.id2label = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
    randomise_weights(theirs)
    theirs.eval().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    plain, _, _ = load_encoder(str(tmp_path), num_labels=3)
    classes = ("entailment", "neutral", "contradiction")
    ordered, _, tuned = load_encoder(str(tmp_path), num_labels=3, classes=classes)
    assert tuned
    for one, other in zip(ordered.classifier.parameters(), plain.classifier.parameters(), strict=True):
        assert torch.equal(one, other[[2, 1, 0]])
    with pytest.raises(UserError, match=r"CONTRADICTION, NEUTRAL, ENTAILMENT.*task\.labels"):
        load_encoder(str(tmp_path), num_labels=3, classes=("a", "b", "c"))


def test_a_checkpoint_without_classifier_gets_a_new_one(family: str, tmp_path: Path) -> None:
    theirs = MODELS[family]()
    theirs.base_model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    ours, _, tuned = load_encoder(str(tmp_path), num_labels=5)
    assert not tuned
    assert ours.classifier.weight.shape == (5, 32)


def without(folder: Path, part: str) -> None:
    """Take the tensors whose name has `part` out of a checkpoint."""
    path = folder / "model.safetensors"
    kept = {k: v for k, v in load_file(path).items() if part not in k}
    save_file(kept, path, metadata={"format": "pt"})


def test_weights_that_the_file_lacks_are_not_made_up(family: str, tmp_path: Path) -> None:
    MODELS[family]().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    without(tmp_path, "classifier")
    _, _, tuned = load_encoder(str(tmp_path), num_labels=3)
    assert not tuned  # though its configuration says that it is a classifier
    without(tmp_path, "layer.1.")
    with pytest.raises(UserError, match=r"lack \S+layer\.1\.\S+, .* and 13 more"):
        load_encoder(str(tmp_path), num_labels=3)


def test_damaged_and_pickled_weights_are_refused(tmp_path: Path) -> None:
    MODELS["bert"]().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"damaged|cannot be loaded"):
        load_encoder(str(tmp_path), num_labels=3)
    path.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(whole)
    with pytest.raises(UserError, match="pickle"):
        load_encoder(str(tmp_path), num_labels=3)


def test_an_unknown_type_is_named(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2Model

    GPT2Model(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=30)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="gpt2"):
        load_encoder(str(tmp_path), num_labels=2)


def test_a_hub_name_that_cannot_be_reached_is_one_message() -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        load_encoder("google-bert/no-such-model-here", num_labels=2)
