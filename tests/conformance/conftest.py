"""ONNX files of small networks; an export takes seconds, so each is written once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conformance.deployed import CNN_SHAPES, make_cnn, make_encoder


@pytest.fixture(scope="session")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX file of an encoder of three layers, of which two lack a half."""
    from raycomp.deployment.onnx_export import export_onnx

    path = tmp_path_factory.mktemp("encoder") / "model.onnx"
    export_onnx(make_encoder(), path, 40)
    return path


@pytest.fixture(scope="session", params=["one text", pytest.param("pair", marks=pytest.mark.slow)])
def cnn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A CNN and its ONNX file: one for one text, and one for pairs of texts with exact match."""
    from raycomp.deployment.onnx_export import export_onnx

    model = make_cnn(CNN_SHAPES[request.param])
    path = tmp_path_factory.mktemp("cnn") / "model.onnx"
    export_onnx(model, path, 32)
    return model, path
