"""The workload of the claims: each job has its own tokens, and batches have all lengths."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.workload import demo_context, load_task_tokens, spread_over_lengths


def test_batches_are_spread_over_the_lengths() -> None:
    """32 batches of one length each, 1 to 32: the middles of four quarters are 5, 13, 21 and 29."""
    lengths = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 33), 8))
    chosen = spread_over_lengths(lengths, rows=8, count=4)
    assert [sorted(set(lengths[rows])) for rows in chosen] == [[5], [13], [21], [29]]
    assert all(len(rows) == 8 for rows in chosen)


def test_jobs_do_not_share_a_run_directory() -> None:
    """The epoch on SST-2 was once measured on the demo's sentences, which the directory already had."""
    one, other = demo_context(), demo_context("task.name=glue/sst2", "task.folder=/sst2")
    assert one.run_dir != other.run_dir
    assert one.run_dir == demo_context().run_dir


@pytest.mark.parametrize(("task", "labels"), [("glue/sst2", [0, 1]), ("demo/polarity", [0, 1, 1])])
def test_tokens_of_another_task_are_refused(task: str, labels: list[int]) -> None:
    train = SimpleNamespace(labels=np.array(labels))
    tokens = SimpleNamespace(labels=np.array([0, 1]))
    context: Any = SimpleNamespace(
        run_dir="x", tokens=lambda split: tokens, task=SimpleNamespace(name="demo/polarity", train=train)
    )
    with pytest.raises(RuntimeError, match=f"not those of {task}"):
        load_task_tokens(context, task)
    train.labels = tokens.labels
    assert load_task_tokens(context, "demo/polarity") is tokens
