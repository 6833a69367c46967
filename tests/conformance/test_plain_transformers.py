"""An export loads in plain transformers, without raycomp, with the same logits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from tests.unit.encoder.test_elastic import make_batch, make_pair
from tests.unit.encoder.test_export import ARCH, SPARSE, make_export

LOADER = """
import json, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "raycomp":
            raise ImportError("raycomp is hidden")
sys.meta_path.insert(0, Blocker())
import torch
from transformers import AutoModelForSequenceClassification
batch = {key: torch.tensor(value) for key, value in json.load(sys.stdin).items()}
for folder in sys.argv[1:]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        logits = model(**batch).logits
    params = sum(p.numel() for p in model.parameters())
    print(json.dumps([logits.tolist(), params, model.config.id2label]))
"""


def test_it_loads_without_raycomp(tmp_path: Path) -> None:
    """Both in one process, because transformers takes seconds to import."""
    archs = {"whole": ARCH, "sparse": SPARSE}
    for name, arch in archs.items():
        make_export(tmp_path / name, arch)
    batch = make_batch()
    tokens = {
        "input_ids": batch.input_ids.tolist(),
        "attention_mask": batch.attention_mask.long().tolist(),
        "token_type_ids": batch.token_type_ids.tolist(),
    }
    done = subprocess.run(
        [sys.executable, "-c", LOADER, *archs],
        input=json.dumps(tokens), capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    _, elastic = make_pair()
    for arch, line in zip(archs.values(), done.stdout.splitlines()[-2:], strict=True):
        logits, params, labels = json.loads(line)
        assert (torch.tensor(logits) - elastic(batch, arch).logits).abs().max() < 1e-6
        assert params == sum(p.numel() for p in elastic.extract(arch).parameters())
        assert labels == {"0": "bad", "1": "good"}
