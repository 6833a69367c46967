"""Contexts of tiny jobs for tests that run a method for a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycomp.methods.context import RunContext
from tests.unit.methods.golden import make_context


@pytest.fixture
def make(tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path) -> Callable[..., RunContext]:
    """Return a function from a method and its settings to a context with a teacher and 2 batches."""
    count = iter(range(100))
    tiny_job["task"]["limit"] = 32

    def make_one(method: str, job: dict[str, Any] | None = None, **settings: Any) -> RunContext:
        folder = tmp_path / str(next(count))
        return make_context({**tiny_job, **(job or {})}, folder, method, tuned_model, **settings)

    return make_one
