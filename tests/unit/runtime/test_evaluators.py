"""An evaluator's pass over many architectures against one pass for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext
from raycomp.runtime.scoring.evaluators import Evaluator
from raycomp.storage.tensors import save_tensors
from raycomp.training.evaluation import predict_logits, score_logits
from tests.conftest import randomise_weights


def test_together_or_alone_the_rows_are_the_same(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    """The slow form: extract each, run it on one row at a time, without any padding."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    tiny_job["search"]["max_tokens"] = 64  # several batches
    context = RunContext(parse_job(tiny_job), run_dir)
    context.record_facts()
    network = context.network().eval()
    randomise_weights(network)
    save_tensors(run_dir / "supernet" / "network.safetensors", network.state_dict())
    evaluator = Evaluator(parse_job(tiny_job).model_dump(mode="json"), str(run_dir), 1)
    rng = np.random.default_rng(0)
    archs = [context.space.sample_uniform(rng) for _ in range(8)]
    together = evaluator.evaluate([a.to_json() for a in archs], "selection", "fp32")
    tokens = context.tokens("selection")
    values = set()
    for arch, row in zip(archs, together, strict=True):
        (alone,) = evaluator.evaluate([arch.to_json()], "selection", "fp32")
        assert {**row, "seconds": 0} == {**alone, "seconds": 0}  # to the last bit
        model = network.extract(arch)
        logits = [
            model(torch.tensor(tokens.input_ids[None, tokens.offsets[i] : tokens.offsets[i + 1]]).long())
            for i in range(len(tokens))
        ]
        slow = np.concatenate([out.logits.detach().numpy() for out in logits])
        fast = predict_logits(
            lambda batch, arch=arch: network(batch, arch).logits,  # type: ignore[misc]
            tokens, pad_id=0, max_tokens=64, precision="fp32", device=torch.device("cpu"),
        )  # fmt: skip
        assert np.abs(slow - fast).max() < 1e-5
        found = score_logits(context.metrics, tokens, slow)
        assert row["value"] == found.values[context.primary]
        assert abs(row["loss"] - found.loss) < 1e-6
        assert (row["arch_id"], row["examples"]) == (arch.id, len(tokens))
        values.add(row["loss"])
    assert len(values) == len({a.id for a in archs}) > 1
