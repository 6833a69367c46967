"""The word table as a dimension: a run with cut and low-rank tables does what the platform expects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from raycomp.config.loader import parse_job
from raycomp.deployment.cpu import needs_reduced_range
from raycomp.deployment.format_settings import FormatSettings
from raycomp.deployment.quantisation import Int8Form, find_operations, quantise
from raycomp.deployment.runtimes import open_session, session_forward
from raycomp.encoder.architecture import Architecture, WordTable
from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline.reexport import export_budget
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout
from raycomp.testing import check_method
from tests.conftest import make_bert_config, make_sentences, make_tiny_job, randomise_weights
from tests.unit.encoder.test_vocabulary import word_piece

SPARE_WORDS = [f"spare{first}{last}" for first in "abcdefgh" for last in "abcdefgh"]


@pytest.fixture
def job(tiny_data: Path, tmp_path: Path) -> dict[str, Any]:
    words = sorted({word for text in make_sentences(200, 0)["text"] for word in text.split()})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_piece([*words, *SPARE_WORDS]),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    folder = tmp_path / "model"
    torch.manual_seed(0)
    model = BertForSequenceClassification(make_bert_config(num_labels=2, vocab_size=len(tokenizer)))
    randomise_weights(model, scale=0.05)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    data = make_tiny_job(folder, tiny_data)
    data["search"] = {"evaluations": 6, "batch": 3}
    data["heal"] = {"steps": 4, "networks": 2}
    data["embeddings"] = {"vocabulary": ["full", "task"], "rank": ["full", 4, 8]}
    # The smallest network with a full table has .44 of the parameters.
    data["budget"] = [{"name": "small", "params": "0.3x"}, {"name": "layers", "encoder_params": "0.8x"}]
    return data


@pytest.mark.parametrize("coverage", [1.0, pytest.param(0.9, marks=pytest.mark.slow)])
def test_a_run_with_word_tables_conforms(job: dict[str, Any], tmp_path: Path, coverage: float) -> None:
    job["embeddings"]["coverage"] = coverage

    check_method("yoco", job, tmp_path / "runs")

    run_dir = next((tmp_path / "runs" / "whole").glob("tiny-*"))
    small = run_dir / "exports" / "yoco-small"
    table = Architecture.from_json(json.loads((small / "certificate.json").read_text())["arch"]).table
    assert table.is_cut
    assert table.rank in (None, 4, 8)
    # A budget that does not count the table leaves it whole.
    layers = json.loads((run_dir / "exports" / "yoco-layers" / "certificate.json").read_text())
    assert Architecture.from_json(layers["arch"]).table == WordTable()

    tokenizer = AutoTokenizer.from_pretrained(small, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(small, trust_remote_code=True)
    token_ids = json.loads((run_dir / "vocabulary.json").read_text())["token_ids"]
    assert model.config.vocab_size == len(tokenizer) == len(token_ids)
    assert not set(SPARE_WORDS) & set(tokenizer.get_vocab())
    # An unseen word falls back to pieces: no unknown token.
    assert tokenizer.unk_token_id not in tokenizer(f"{SPARE_WORDS[7]} the")["input_ids"]

    write_json(RunLayout(run_dir).job, parse_job(job).model_dump(mode="json"))
    check_onnx(run_dir, table, tmp_path / "formats")


def check_onnx(run_dir: Path, table: WordTable, out: Path) -> None:
    """Check the model's file in ONNX, and that INT8 reaches each matrix of the word table."""
    export_budget(run_dir, "yoco-small", out, FormatSettings(("onnx",), threads=1))
    entry = json.loads((out / "certificate.json").read_text())["files"][-1]
    # The file reads the ids of the cut vocabulary, as the export of the run does.
    assert (entry["file"], entry["loss"]) == ("onnx/model.onnx", 0)

    source, target = out / "onnx" / "model.onnx", out / "onnx" / "int8.onnx"
    operations = find_operations(source)
    # The rows are a Gather. A product is only there where the table has a rank.
    assert "Gather" in {operation.kind for operation in operations}
    num_linear = sum(operation.kind in ("MatMul", "Gemm") for operation in operations)
    arch = Architecture.from_json(json.loads((out / "certificate.json").read_text())["arch"])
    halves = sum(4 * bool(h) for h in arch.heads) + sum(2 * bool(k) for k in arch.ffn)
    assert num_linear == halves + 2 + (table.rank is not None)

    quantise(
        source,
        target,
        Int8Form("dynamic", False, tuple(operations)),
        [],
        reduce_range=needs_reduced_range(),
    )
    ids = torch.arange(12).reshape(2, 6)
    full, small = (
        session_forward(open_session(path, 1))(ids, torch.ones_like(ids), None)
        for path in (source, target)
    )
    assert (small - full).abs().max() < 0.1 * full.abs().max()


def test_a_cut_context_needs_nothing_before_it(job: dict[str, Any], tmp_path: Path) -> None:
    context = RunContext(parse_job(job), tmp_path / "runs" / "new")

    assert context.cut.pad_id == 0
    assert len(context.cut.tokenizer) < len(context.tokenizer)
    assert context.cut.cut is context.cut
