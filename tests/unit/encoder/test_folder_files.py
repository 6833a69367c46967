"""Model folders with damaged, misnamed or missing files, and paths that are not folders: one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertForSequenceClassification

from raycomp.encoder.pretrained import Checkpoint, load_checkpoint, load_config
from raycomp.errors import UserError
from tests.conftest import make_bert_config
from tests.unit.encoder.test_classifier_head import configure, write_classifier

CLASSES = ("neg", "pos")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "model", 2)


def load(folder: Path) -> Checkpoint:
    return load_checkpoint(str(folder), num_labels=2, classes=CLASSES)


def refusal(folder: Path | str) -> str:
    with pytest.raises(UserError) as error:
        load_checkpoint(str(folder), num_labels=2, classes=CLASSES)
    return str(error.value)


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
def test_a_pointer_of_git_lfs_is_named(file: str, folder: Path) -> None:
    (folder / file).write_bytes(POINTER)
    assert f"{file} of model {folder} is a pointer of Git LFS" in refusal(folder)


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("config.json", b""),
        ("config.json", '{"a": 1}'.encode("utf-16")),
        ("config.json", b"\xef\xbb\xbf{}"),
        ("tokenizer_config.json", b"{"),
        ("special_tokens_map.json", b"[]"),
        ("added_tokens.json", b"3"),
        ("tokenizer.json", b"<html>"),
    ],
)
def test_a_file_that_is_not_a_json_object_is_named(file: str, data: bytes, folder: Path) -> None:
    (folder / file).write_bytes(data)
    message = refusal(folder)
    assert f"The {file} of {folder} is" in message
    assert "JSON" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id2label": ["neg", "pos"]}, "has id2label = ['neg', 'pos']"),
        ({"id2label": {"0": "neg", "2": "pos"}}, "Give a name for each output"),
        ({"id2label": {"-1": "neg", "1": "pos"}}, "Give a name for each output"),
        ({"id2label": {"a": "neg", "b": "pos"}}, "Give a name for each output"),
        ({"id2label": {"0": None, "1": "pos"}}, "Give a name for each output"),
        ({"id2label": {}}, "Give a name for each output"),
        ({"architectures": "BertForSequenceClassification"}, 'Give a list, such as ["Bert'),
        ({"architectures": [3]}, 'Give a list, such as ["Bert'),
        ({"is_decoder": True}, "Only encoders are compressed"),
        ({"is_decoder": True, "add_cross_attention": True}, "Only encoders are compressed"),
        ({"hidden_act": None}, "hidden_act"),
        ({"layer_norm_eps": "1e-12"}, "expected float, got str"),
    ],
)
def test_settings_that_transformers_misreads_are_named(
    changes: dict[str, Any], words: str, folder: Path
) -> None:
    configure(folder, **changes)
    message = refusal(folder)
    assert words in message
    assert "Give a Hub name" not in message


@pytest.mark.parametrize(
    ("setting", "tensor"),
    [
        ("vocab_size", "bert.embeddings.word_embeddings.weight"),
        ("max_position_embeddings", "bert.embeddings.position_embeddings.weight"),
        ("intermediate_size", "bert.encoder.layer.0.intermediate.dense.weight"),
    ],
)
def test_weights_of_other_shapes_are_named(setting: str, tensor: str, folder: Path) -> None:
    size = json.loads((folder / "config.json").read_text())[setting]
    configure(folder, **{setting: size + 8})
    message = refusal(folder)
    assert "other shapes than in its config.json" in message
    assert tensor in message
    assert str(size) in message
    assert str(size + 8) in message


def test_weights_of_another_name_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert "has weights.safetensors, but transformers reads model.safetensors" in refusal(folder)


@pytest.mark.parametrize("known", [{}, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}])
def test_names_in_label2id_only_decide_the_order(known: dict[str, Any], folder: Path) -> None:
    configure(folder, **{"id2label": ..., **known, "label2id": {"pos": 0, "neg": 1}})
    checkpoint = load(folder)
    assert checkpoint.outputs == (1, 0)
    assert checkpoint.has_named_outputs


@pytest.mark.parametrize(
    "label2id", [{"pos": 0, "neg": 0}, {"pos": 0}, {"pos": "0", "neg": "1"}, {"pos": 1, "neg": 2}, None]
)
def test_names_in_a_damaged_label2id_are_ignored(label2id: Any, folder: Path) -> None:
    configure(folder, id2label=..., label2id=label2id)
    try:
        checkpoint = load(folder)
    except UserError as error:
        # transformers takes the number of outputs from label2id.
        assert "id2label" in str(error)  # noqa: PT017
        return
    assert checkpoint.outputs == (0, 1)
    assert not checkpoint.has_named_outputs


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "model.name is empty"),
        (" ", "model.name is empty"),
        ("{}/nope", "does not exist"),
        ("./nope", "does not exist"),
        ("../a/nope", "does not exist"),
        ("a/b/nope", "does not exist"),
        ("nope/", "does not exist"),
        ("~/nope", "write it without ~"),
        ("a\\nope", "does not exist"),
        ("{}/model/config.json", "is a file. Name the folder"),
    ],
)
def test_a_path_that_is_not_a_folder_is_not_sought_on_the_hub(
    name: str, words: str, folder: Path, tmp_path: Path
) -> None:
    path = name.replace("{}", str(tmp_path))
    assert words in refusal(path)
    with pytest.raises(UserError, match=r"model|Model"):
        load_config(path)


def test_a_token_beyond_the_embeddings_is_named(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "model", 2)
    BertForSequenceClassification(make_bert_config(vocab_size=8)).save_pretrained(folder)
    assert "tokens beyond the network's 8, such as '" in refusal(folder)
