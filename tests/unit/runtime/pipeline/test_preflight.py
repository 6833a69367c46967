from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import dynamic_module_utils

from raycomp.config.loader import parse_job
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline.preflight import _smallest_batches, check


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
        # 1,000 rows and at most as many copies: 1,995 of both make batches of 7. A search leaves out a
        # fifth of the rows.
        (
            1000,
            True,
            {
                "run": {"methods": ["adabert"]},
                "augment": {"copies": 1},
                "adabert": {"batch_size": 8},
            },
            [8, 8, 7, 7],
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


def test_a_cache_of_modules_that_cannot_be_written_is_found_before_training(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exports are loaded back after all training, and that needs the cache."""
    context = RunContext(parse_job(tiny_job), tmp_path / "run")
    check(context)
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(file / "modules"))
    with pytest.raises(UserError, match=r"file/modules cannot be written .* Set HF_MODULES_CACHE"):
        check(context)
