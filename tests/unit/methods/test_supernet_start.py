"""The start of a super-network: settings with which a method would be another one are refused."""

from __future__ import annotations

from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_method_class


@pytest.mark.parametrize(
    ("method", "section", "key", "value", "is_refused"),
    [
        ("ofa", "train", "init", "pretrained", True),
        ("dynabert", "train", "init", "pretrained", True),
        ("dynabert", "space", "reorder", False, True),
        # OFA sorts units by their weights in its own phases.
        ("ofa", "space", "reorder", False, False),
        ("hat", "space", "reorder", False, False),
        ("yoco", "train", "init", "pretrained", False),
    ],
)
def test_settings_of_yoco_do_not_change_what_another_method_is(
    method: str,
    section: str,
    key: str,
    value: Any,
    is_refused: bool,
    tiny_job: dict[str, Any],
    tmp_path: Any,
) -> None:
    tiny_job["run"]["methods"] = [method]
    tiny_job.setdefault(section, {})[key] = value
    context = RunContext(parse_job(tiny_job), tmp_path, method=method)
    problems = load_method_class(method)().find_problems(context)
    assert bool(problems) == is_refused
    if is_refused:
        assert f"{section}.{key}" in problems[0]
        assert "another job" in problems[0]
