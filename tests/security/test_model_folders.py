"""Model folders that come from elsewhere."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycomp.encoder.checks import MAX_BYTES
from raycomp.encoder.export import export_model
from raycomp.encoder.pretrained import load_encoder, load_tokenizer
from raycomp.errors import UserError

Harm = Callable[[Path], Any]


@pytest.fixture
def folder(tuned_model: Path, tmp_path: Path) -> Path:
    shutil.copytree(tuned_model, tmp_path / "model")
    return tmp_path / "model"


def refused(folder: Path) -> str:
    began = time.perf_counter()
    with pytest.raises(UserError) as caught:
        load_encoder(str(folder), num_labels=2)
    assert time.perf_counter() - began < 5
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500
    return str(caught.value)


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads = 0"),
        ({"num_attention_heads": -1}, "num_attention_heads = -1"),
        ({"num_attention_heads": 3}, "not a multiple"),
        ({"num_hidden_layers": 10**9}, "from 1 to 256"),
        ({"num_hidden_layers": 200}, "asks for"),
        ({"hidden_size": 10**12}, "hidden_size"),
        ({"hidden_size": "x"}, "hidden_size"),
        ({"vocab_size": 10**11}, "vocab_size"),
        ({"vocab_size": 3_000_000}, "asks for"),
        ({"vocab_size": 5}, "another model's"),
        ({"max_position_embeddings": 10**11}, "max_position_embeddings"),
        ({"intermediate_size": 250_000}, "asks for"),
        ({"num_labels": 10**9}, "num_labels"),
        ({"pad_token_id": 10**9}, "pad_token_id"),
        ({"model_type": "gpt2"}, "allowed: bert"),
        ({"model_type": "gpt2"}, "Choose a model of one of these types."),
        ({"model_type": "../x"}, "cannot be loaded"),
        ({"hidden_act": "__import__"}, "cannot be loaded"),
        ({"id2label": [1]}, "id2label = [1]"),
        ({"quantization_config": {"quant_method": "x"}}, "quantized"),
        ({"_attn_implementation": "owner/kernel"}, "attention kernel"),
    ],
    ids=lambda v: json.dumps(v)[:40] if isinstance(v, dict) else None,
)
def test_a_hostile_configuration_is_one_message(
    changes: dict[str, Any], words: str, folder: Path
) -> None:
    configure(folder, **changes)
    assert words in refused(folder)


@pytest.mark.parametrize(
    ("file", "data", "words"),
    [
        ("config.json", b"{", "config.json of {} is damaged: it is not JSON"),
        ("config.json", b"[]", "not a JSON object"),
        ("config.json", b"[" * 100_000, "config.json of {} is damaged: it is not JSON"),
        ("config.json", b"\xff", "config.json of {} is damaged: it is not JSON"),
        ("config.json", b" " * 2**21, "larger than 1,024 KiB"),
        ("tokenizer.json", b"{", "tokenizer.json of {} is damaged: it is not JSON"),
        ("tokenizer.json", b"{}", 'tokenizer.json of {} is damaged: it lacks the entry "model"'),
        ("tokenizer.json", b"[" * 100_000, "tokenizer.json of {} is damaged: it is not JSON"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json of {} is not a JSON object"),
        ("model.safetensors", b"", "its weights have 0 bytes"),
        ("model.safetensors", (2**63).to_bytes(8, "little") + b"x" * 100_000, "damaged"),
        ("model.safetensors", (16).to_bytes(8, "little") + b"x" * 100_000, "damaged"),
        ("adapter_config.json", b'{"base_model_name_or_path": "owner/x"}', "adapter"),
    ],
    ids=lambda v: v if isinstance(v, str) and "." in v else None,
)
def test_a_damaged_file_is_one_message(file: str, data: bytes, words: str, folder: Path) -> None:
    (folder / file).write_bytes(data)
    assert words.replace("{}", str(folder)) in refused(folder)


def test_every_limit_of_size_holds(folder: Path) -> None:
    for file, limit in MAX_BYTES.items():
        kept = (folder / file).read_bytes()
        with (folder / file).open("ab") as opened:
            opened.truncate(limit + 1)
        assert "is larger than" in refused(folder)
        (folder / file).write_bytes(kept)


def test_an_index_names_files_of_its_own_folder_alone(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    for name in ("../a.safetensors", "/etc/passwd", "pytorch_model.bin"):
        weights = {"metadata": {}, "weight_map": {"bert.pooler.dense.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
        assert "not a .safetensors file of its folder" in refused(folder)


def test_a_pickle_is_never_read(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch {ran}'\ntR.".encode())
    assert "is a pickle and is not read" in refused(folder)
    assert not ran.exists()


def test_code_of_a_model_runs_only_when_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    """The same folder runs its code with the setting: what is refused without it is no dead letter."""
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
        "from transformers import BertConfig\nclass C(BertConfig):\n    pass\n"
    )
    configure(folder, auto_map={"AutoConfig": "evil.C"})
    load_encoder(str(folder), num_labels=2)
    assert not ran.exists()
    configure(folder, model_type="unheard-of")
    assert "cannot be loaded" in refused(folder)
    assert not ran.exists()
    with pytest.raises(UserError, match="allowed: bert"):
        load_encoder(str(folder), num_labels=2, trust_remote_code=True)
    assert ran.exists()


def test_an_export_names_no_code_but_ours(folder: Path, tmp_path: Path) -> None:
    """Whoever loads an export trusts its code: nothing of the given folder may come along."""
    from raycomp.encoder.elastic import ElasticEncoder

    path = folder / "tokenizer_config.json"
    taken = {"AutoTokenizer": ["owner/evil--evil.T", "owner/evil--evil.T"]}
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": taken}))
    configure(folder, auto_map={"AutoModelForSequenceClassification": "owner/evil--evil.M"})
    (folder / "evil.py").write_text("raise SystemExit")
    network, _, _ = load_encoder(str(folder), num_labels=2)
    model = ElasticEncoder(network)
    extracted = model.extract(model.largest) if hasattr(model, "largest") else _largest(model)
    name = "x](http://host) | <script>alert(1)</script>\n# y"
    card = {"method": "m", "base_model": name, "task": name, "arch": "{}", "params": 1}
    out = tmp_path / "out"
    export_model(extracted, load_tokenizer(str(folder)), out, ("<b>", "b"), card)
    assert sorted(p.name for p in out.glob("*.py")) == ["layers.py", "modeling_raycomp.py"]
    for file in out.glob("*.json"):
        assert "evil" not in file.read_text()
    text = (out / "README.md").read_text()
    assert "<script>" not in text.partition("---\n# ")[2]
    assert "](http" not in text.partition("---\n# ")[2]


def _largest(model: Any) -> Any:
    from raycomp.encoder.architecture import Architecture

    config = model.config
    return model.extract(
        Architecture(config.num_hidden_layers, tuple(config.layer_heads), tuple(config.layer_ffn))
    )
