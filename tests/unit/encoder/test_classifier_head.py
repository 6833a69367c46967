"""A given classifier that does not fit the task is refused, and damaged weights are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from raycomp.encoder.pretrained import load_checkpoint
from raycomp.errors import UserError
from tests.conftest import make_bert_config, make_tokenizer, randomise_weights


def write_classifier(folder: Path, outputs: int, **config: Any) -> Path:
    torch.manual_seed(0)
    model = BertForSequenceClassification(make_bert_config(num_labels=outputs))
    randomise_weights(model)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    configure(folder, **config)
    return folder


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))


def change_weights(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, path, metadata={"format": "pt"})


THREE = {"id2label": {"0": "neg", "1": "neu", "2": "pos"}, "label2id": {"neg": 0, "neu": 1, "pos": 2}}
MULTI = {"problem_type": "multi_label_classification"}


@pytest.mark.parametrize(
    ("outputs", "config", "classes", "words"),
    [
        (3, THREE, ("neg", "pos"), ["3 outputs (neg, neu, pos)", "2 classes (neg, pos)", "task.labels"]),
        (3, {}, ("neg", "pos"), ["3 outputs (LABEL_0, LABEL_1, LABEL_2)"]),
        (2, {}, ("a", "b", "c"), ["2 outputs", "3 classes (a, b, c)", "Remove the rows"]),
        (16, {}, ("a", "b"), ["16 outputs"]),
        (1, {}, ("a", "b"), ["one output (regression)", 'task.kind = "regression"']),
        (1, {"problem_type": "regression"}, tuple("abcdef"), ["one output", "6 classes"]),
        (2, {}, (), ["2 outputs", "the task is regression", 'task.kind = "classification"']),
        (2, MULTI, ("a", "b"), ["multi-label", "problem_type"]),
        (3, MULTI, ("a", "b"), ["multi-label"]),
        (1, MULTI, (), ["multi-label"]),
        (2, {"problem_type": "regression"}, ("a", "b"), ["regression model", "2 classes"]),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(
    outputs: int, config: dict[str, Any], classes: tuple[str, ...], words: list[str], tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path, outputs, **config)
    with pytest.raises(UserError) as caught:
        load_checkpoint(str(folder), num_labels=len(classes) or 1, classes=classes)
    for word in (*words, "teacher.mode = 'train'"):
        assert word in str(caught.value)
    # The way out of the message works.
    checkpoint = load_checkpoint(
        str(folder), num_labels=len(classes) or 1, classes=classes, new_classifier=True
    )
    assert not checkpoint.is_fine_tuned
    assert checkpoint.network.classifier.weight.shape[0] == (len(classes) or 1)


@pytest.mark.parametrize(
    ("outputs", "config", "classes"),
    [
        (2, {}, ("a", "b")),
        (3, THREE, ("neg", "neu", "pos")),
        (2, {"problem_type": "single_label_classification"}, ("a", "b")),
        (1, {}, ()),
        (1, {"problem_type": "regression"}, ()),
        (2, {"architectures": ...}, ("a", "b")),
        (2, {"architectures": []}, ("a", "b")),
        (2, {"architectures": None}, ("a", "b")),
    ],
)
def test_a_classifier_that_fits_is_the_teacher(
    outputs: int, config: dict[str, Any], classes: tuple[str, ...], tmp_path: Path
) -> None:
    """Also where a tool saved the configuration without the class: the weights are a classifier's."""
    folder = write_classifier(tmp_path, outputs, **config)
    checkpoint = load_checkpoint(str(folder), num_labels=outputs, classes=classes)
    assert checkpoint.is_fine_tuned
    assert checkpoint.outputs == tuple(range(outputs))
    expected = load_file(folder / "model.safetensors")["classifier.weight"]
    assert torch.equal(checkpoint.network.classifier.weight, expected)


def test_one_output_of_a_classification_is_refused_by_transformers(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, 1, problem_type="single_label_classification")
    with pytest.raises(UserError, match="problem_type="):
        load_checkpoint(str(folder), num_labels=1)


def test_names_decide_the_order_of_the_outputs(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, 3, **THREE)
    checkpoint = load_checkpoint(str(folder), num_labels=3, classes=("pos", "neg", "neu"))
    assert checkpoint.outputs == (2, 0, 1)
    assert checkpoint.has_named_outputs


def test_an_encoder_without_classifier_gets_a_new_one(tiny_model: Path, tmp_path: Path) -> None:
    assert not load_checkpoint(str(tiny_model), num_labels=4).is_fine_tuned
    folder = write_classifier(tmp_path, 3)
    change_weights(folder, {"classifier.weight": None, "classifier.bias": None})
    assert not load_checkpoint(str(folder), num_labels=2).is_fine_tuned


def test_half_a_classifier_is_refused(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, 2)
    change_weights(folder, {"bert.pooler.dense.weight": None})
    with pytest.raises(UserError, match=r"classifier of .* lacks bert\.pooler\.dense\.weight"):
        load_checkpoint(str(folder), num_labels=2)


@pytest.mark.parametrize("names", [{"0": "a", "1": "b"}, {"0": "a", "1": "b", "2": "c", "3": "d"}])
def test_names_of_another_number_of_outputs_are_refused(names: dict[str, str], tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, 3, id2label=names, label2id={v: int(k) for k, v in names.items()})
    with pytest.raises(UserError, match=f"names {len(names)} outputs .* have 3"):
        load_checkpoint(str(folder), num_labels=3, classes=("a", "b", "c"))


@pytest.mark.parametrize(
    ("tensor", "value", "dtype"),
    [
        ("bert.embeddings.word_embeddings.weight", float("nan"), torch.float32),
        ("bert.encoder.layer.1.output.dense.bias", float("inf"), torch.float16),
        ("classifier.bias", float("-inf"), torch.float32),
    ],
)
def test_weights_that_are_not_finite_are_named(
    tensor: str, value: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path, 2)
    damaged = load_file(folder / "model.safetensors")[tensor].to(dtype)
    damaged.view(-1)[1] = value
    change_weights(folder, {tensor: damaged})
    with pytest.raises(UserError, match=f"{tensor} has 1 values? of .* NaN or infinite"):
        load_checkpoint(str(folder), num_labels=2)
    # A classifier that is not used may be damaged.
    if tensor == "classifier.bias":
        assert not load_checkpoint(str(folder), num_labels=2, new_classifier=True).is_fine_tuned


def test_a_pickle_comes_with_the_command_that_converts_it(tuned_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tuned_model, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        load_checkpoint(str(folder), num_labels=2)
    assert "import BertForSequenceClassification as M" in str(caught.value)
    assert "save_pretrained('model-safetensors')" in str(caught.value)
    configure(folder, architectures=["os; import x"])
    with pytest.raises(UserError, match="import AutoModel as M"):
        load_checkpoint(str(folder), num_labels=2)
