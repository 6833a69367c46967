from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.runtime.pipeline.preflight import _smallest_batches


@pytest.mark.parametrize(
    ("rows", "fine_tuned", "changes", "expected"),
    [
        (3301, False, {"train": {"batch_size": 8}, "teacher": {"batch_size": 32}}, [31, 7]),
        (3301, True, {"train": {"batch_size": 8}, "teacher": {"batch_size": 32}}, [7]),
        (
            3301,
            True,
            {"train": {"batch_size": 8}, "teacher": {"batch_size": 32, "mode": "train"}},
            [31, 7],
        ),
        # 1,000 rows and at most as many copies: 1,995 of both make batches of 7.
        (
            1000,
            True,
            {
                "run": {"methods": ["adabert"]},
                "augment": {"copies": 1},
                "adabert": {"batch_size": 8},
            },
            [8, 7],
        ),
    ],
)
def test_the_smallest_batch_of_each_training(
    tiny_job: dict[str, Any], rows: int, fine_tuned: bool, changes: dict[str, Any], expected: list[int]
) -> None:
    job = copy.deepcopy(tiny_job)
    for section, values in changes.items():
        job[section] = {**job.get(section, {}), **values}
    context = SimpleNamespace(
        job=parse_job(job), task=SimpleNamespace(train=range(rows)), fine_tuned=fine_tuned
    )
    context.for_method = lambda name: context
    assert _smallest_batches(context) == expected  # type: ignore[arg-type]
