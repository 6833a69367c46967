"""The folder of an export: its files, and its proof. tests/conformance loads exports without raycomp."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.export import export_model, verify_export
from raycomp.errors import UserError
from tests.conftest import make_tokenizer
from tests.unit.encoder.test_elastic import make_batch, make_pair

ARCH = Architecture(2, (2, 1), (32, 16))
CARD = {
    "method": "A test.",
    "base_model": "tiny", "task": "t", "metric": "accuracy", "arch": ARCH.to_json(), "params": 1,
    "encoder_params": 1, "flops": 1.0, "length": 16, "run": "r", "budget": "half", "selection": 0.5,
}  # fmt: skip


SPARSE = Architecture(2, (0, 4), (32, 0), (0, 2))


def make_export(out: Path, arch: Architecture = ARCH) -> None:
    _, elastic = make_pair()
    export_model(elastic.extract(arch), make_tokenizer(), out, ["bad", "good"], CARD)


def test_verify_counts_and_compares(tmp_path: Path) -> None:
    make_export(tmp_path / "model")
    _, elastic = make_pair()
    proof = verify_export(tmp_path / "model", elastic.extract(ARCH), make_batch())
    assert proof["max_logit_difference"] < 1e-6
    _, other = make_pair(seed=1)
    proof = verify_export(tmp_path / "model", other.extract(ARCH), make_batch())
    assert proof["max_logit_difference"] > 1e-2


def test_the_folder_holds_what_a_user_needs(tmp_path: Path) -> None:
    out = tmp_path / "model"
    make_export(out)
    config = json.loads((out / "config.json").read_text())
    assert config["layer_heads"] == [2, 1]
    assert config["layer_ffn"] == [32, 16]
    code = sorted(out.glob("*.py"))
    assert [p.name for p in code] == ["layers.py", "modeling_raycomp.py"]
    assert not any(re.search(r"^\s*(from|import) raycomp", p.read_text(), re.M) for p in code)
    assert AutoTokenizer.from_pretrained(out, trust_remote_code=True)("fine film")["input_ids"]
    assert "half" in (out / "README.md").read_text()


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        make_export(tmp_path / "file" / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
