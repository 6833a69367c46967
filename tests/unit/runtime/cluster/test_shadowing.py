"""A file next to the job that hides a package from Ray's workers is named before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.shadowing import find_shadowing_files
from raycomp.runtime.pipeline.preflight import check


@pytest.mark.parametrize("name", ["safetensors.py", "torch/__init__.py", "tokenizers.py", "pandas.py"])
def test_a_file_that_hides_a_package_is_named(
    name: str, tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    monkeypatch.chdir(tmp_path)
    context = RunContext(parse_job(tiny_job), tmp_path / "runs" / "x")
    with pytest.raises(UserError, match=f"{name} hides the package"):
        check(context)


@pytest.mark.parametrize(
    "name", ["my_metric.py", "data/train.csv", "datasets/rows.csv", "json.py", "tests/__init__.py"]
)
def test_other_files_are_allowed(name: str, tmp_path: Path) -> None:
    """A folder without __init__.py does not hide a package, and workers have imported json already."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert find_shadowing_files(tmp_path) == []


def test_the_package_itself_is_allowed() -> None:
    import torch

    assert find_shadowing_files(Path(torch.__file__).parents[1]) == []
