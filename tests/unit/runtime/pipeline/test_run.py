"""What a run says before it trains."""

from __future__ import annotations

from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.runtime.cluster import capacity
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.run import _name_idle_gpus


@pytest.mark.parametrize(("held", "asked", "said"), [(0, 0, 0), (1, 0, 1), (2, 0, 1), (2, 1, 0)])
def test_gpus_that_training_leaves_alone_are_named(
    tiny_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, held: int, asked: int, said: int
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(capacity, "total_gpus", lambda: held)
    monkeypatch.setattr(Progress, "say", lambda self, text: lines.append(text))
    tiny_job["train"]["gpus"] = asked
    _name_idle_gpus(parse_job(tiny_job), Progress(enabled=False))
    assert len(lines) == said
    assert all(f"has {held} GPU" in line and "--set train.gpus=1" in line for line in lines)
