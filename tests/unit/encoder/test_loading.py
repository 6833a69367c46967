"""Exports load where users load models: transformers' options, pipelines, sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.export import export_model, longest_text
from raycomp.encoder.plain import make_plain
from raycomp.methods.adabert.compiler import compile_child
from raycomp.methods.adabert.structure import Structure
from raycomp.methods.adabert.student import Child
from raycomp.methods.exported_models import load_export
from tests.conftest import make_tokenizer
from tests.unit.encoder.test_elastic import make_pair
from tests.unit.encoder.test_export import CARD, make_export
from tests.unit.methods.adabert.builders import ONE_TEXT, perturb

TEXTS = ["a fine film", "the plot was dull and the cast weak"]
KINDS = ("encoder", "plain", "cnn")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An extracted encoder, one in the plain form, and a compiled CNN, exported."""
    folder = tmp_path_factory.mktemp("exports")
    make_export(folder / "encoder")
    plain = make_plain(make_pair()[1].extract(Architecture(2, (4, 4), (32, 32))))
    export_model(plain, make_tokenizer(), folder / "plain", ["bad", "good"], CARD)
    child = Child(ONE_TEXT, Structure(2, ("std_conv_5", "max_pool_3", "skip") * 3)).eval()
    perturb(child)
    export_model(compile_child(child), make_tokenizer(), folder / "cnn", ["a", "b", "c"], CARD)
    return {kind: folder / kind for kind in KINDS}


def load_model(folder: Path, **options: Any) -> Any:
    # A plain export has no code to trust.
    trusted = folder.name != "plain"
    return AutoModelForSequenceClassification.from_pretrained(
        folder, trust_remote_code=trusted, **options
    ).eval()


def run_model(model: Any, tokenizer: Any) -> torch.Tensor:
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model(**batch).logits.float()


@pytest.fixture(params=KINDS)
def export(request: pytest.FixtureRequest, exports: dict[str, Path]) -> Path:
    return exports[request.param]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_implementations(export: Path, implementation: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=False)
    model = load_model(export, attn_implementation=implementation)
    assert model.config._attn_implementation == implementation
    expected = run_model(load_model(export), tokenizer)
    assert (run_model(model, tokenizer) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(export: Path, dtype: torch.dtype) -> None:
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=False)
    model = load_model(export, dtype=dtype)
    assert next(model.parameters()).dtype == dtype
    expected = run_model(load_model(export), tokenizer)
    difference = (run_model(model, tokenizer) - expected).abs().max()
    assert 0 < difference < 0.05 * max(1.0, float(expected.abs().max()))


def test_a_pipeline(export: Path) -> None:
    trusted = export.name != "plain"
    classify = pipeline("text-classification", model=str(export), trust_remote_code=trusted, device="cpu")
    answers = classify(TEXTS)
    model = load_model(export)
    logits = run_model(model, AutoTokenizer.from_pretrained(export, trust_remote_code=False))
    assert [a["label"] for a in answers] == [model.config.id2label[int(i)] for i in logits.argmax(1)]


def test_a_cross_encoder(export: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    trusted = export.name != "plain"
    encoder = sentence_transformers.CrossEncoder(str(export), trust_remote_code=trusted, device="cpu")
    pairs = [(TEXTS[0], TEXTS[1]), (TEXTS[1], TEXTS[0])]
    scores = encoder.predict(pairs, activation_fn=torch.nn.Identity(), convert_to_tensor=True)
    batch = encoder.tokenizer(pairs, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = load_model(export)(**batch).logits
    assert (scores - expected).abs().max() < 1e-5


def test_save_pretrained_and_back(export: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=False)
    expected = run_model(load_model(export), tokenizer)
    # As plain transformers loads it, and as `Run.load` does.
    for name, model in (("theirs", load_model(export)), ("ours", load_export(export))):
        again = tmp_path / name
        model.save_pretrained(again)
        assert torch.equal(run_model(load_model(again), tokenizer), expected)


def test_a_tokenizer_needs_no_code(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> str:
        raise AssertionError("transformers asks the user a question")

    monkeypatch.setattr("builtins.input", refuse)
    loaded = [
        AutoTokenizer.from_pretrained(export, trust_remote_code=False),
        PreTrainedTokenizerFast.from_pretrained(export),
    ]
    expected = make_tokenizer()(TEXTS)["input_ids"]
    assert [tokenizer(TEXTS)["input_ids"] for tokenizer in loaded] == [expected, expected]


def test_servers_find_the_sizes_of_the_model(export: Path) -> None:
    config = json.loads((export / "config.json").read_text())
    loaded = AutoConfig.from_pretrained(export, trust_remote_code=True)
    assert config["hidden_size"] > 0
    assert config["num_hidden_layers"] == 2
    assert config["architectures"][0].endswith("ForSequenceClassification")
    limit = json.loads((export / "sentence_bert_config.json").read_text())["max_seq_length"]
    assert limit == longest_text(loaded)
    assert limit == AutoTokenizer.from_pretrained(export, trust_remote_code=False).model_max_length
