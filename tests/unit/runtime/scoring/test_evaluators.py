"""An evaluator's pass over many architectures, compared with one pass for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext
from raycomp.runtime.scoring.evaluators import Evaluator
from raycomp.storage.layout import RunLayout
from raycomp.storage.tensors import save_tensors
from raycomp.training.evaluation import predict_logits, score_logits
from tests.conftest import randomise_weights


def test_one_pass_for_all_gives_the_rows_of_one_pass_for_each(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    """The slow form extracts each architecture, and runs it on one row at a time without padding."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    # Several batches.
    tiny_job["search"]["max_tokens"] = 64
    context = RunContext(parse_job(tiny_job), run_dir)
    context.record_facts()
    network = context.network().eval()
    randomise_weights(network)
    save_tensors(RunLayout(run_dir).method("yoco").supernet_network, network.state_dict())

    evaluator = Evaluator(parse_job(tiny_job).model_dump(mode="json"), str(run_dir), 1)
    rng = np.random.default_rng(0)
    archs = [context.space.sample_uniform(rng) for _ in range(8)]
    rows = evaluator.evaluate([arch.to_json() for arch in archs], "selection", "fp32")
    tokens = context.tokens("selection")

    losses = set()
    for arch, row in zip(archs, rows, strict=True):
        (single_row,) = evaluator.evaluate([arch.to_json()], "selection", "fp32")
        assert {**row, "seconds": 0} == {**single_row, "seconds": 0}, "equal bit for bit"

        model = network.extract(arch)
        logits = [
            model(torch.tensor(tokens.input_ids[None, tokens.offsets[i] : tokens.offsets[i + 1]]).long())
            for i in range(len(tokens))
        ]
        slow_logits = np.concatenate([output.logits.detach().numpy() for output in logits])
        fast_logits = predict_logits(
            lambda batch, arch=arch: network(batch, arch).logits,  # type: ignore[misc]
            tokens,
            pad_id=0,
            max_tokens=64,
            precision="fp32",
            device=torch.device("cpu"),
        )
        assert np.abs(slow_logits - fast_logits).max() < 1e-5

        score = score_logits(context.metrics, tokens, slow_logits)
        assert row["value"] == score.values[context.primary]
        assert abs(row["loss"] - score.loss) < 1e-6
        assert (row["arch_id"], row["examples"]) == (arch.id, len(tokens))
        losses.add(row["loss"])

    # The comparison means something only if the architectures differ.
    assert len(losses) == len({arch.id for arch in archs}) > 1
