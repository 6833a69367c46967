"""ONNX files of small networks; an export takes seconds, so each is written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.deployed import CNN_SHAPES, make_cnn, make_encoder


@pytest.fixture(scope="session")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX file of an encoder of three layers, of which two lack a half."""
    from raycomp.deployment.onnx_export import export_onnx

    path = tmp_path_factory.mktemp("encoder") / "model.onnx"
    export_onnx(make_encoder(), path, 40)
    return path


@pytest.fixture(scope="session")
def cnn_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ONNX files of a CNN for one text, and of one for pairs of texts with exact match."""
    from raycomp.deployment.onnx_export import export_onnx

    folder = tmp_path_factory.mktemp("cnn")
    files = {kind: folder / f"{kind}.onnx" for kind in CNN_SHAPES}
    for kind, path in files.items():
        export_onnx(make_cnn(CNN_SHAPES[kind]), path, 32)
    return files
