"""Directories and files that a user names and that cannot be meant: one message, and nothing replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raycomp.api.session import run_work
from raycomp.api.tables import require_run
from raycomp.config.loader import load_job
from raycomp.deployment.certificate import parse_limits
from raycomp.errors import UserError
from raycomp.report.loading import load_tables
from raycomp.runtime.cluster.progress import Progress
from raycomp.storage.files import write_text
from raycomp.storage.tensors import load_tensors
from tests.unit.config.test_job import write


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "is not a job of raycomp"),
        (json.dumps({"name": "another tool"}), "is not a job of raycomp"),
        (json.dumps({"run": {}}), "is not a job of raycomp"),
        ("[]", "does not contain a JSON object"),
        ("", "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_the_job_of_another_tool_is_not_a_run(content: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "job.json").write_text(content)
    with pytest.raises(UserError, match=f"is not a run directory: .*{words}"):
        require_run(folder)
    with pytest.raises(UserError, match=f"is not a run directory: .*{words}"):
        load_tables(folder)


@pytest.mark.parametrize("storage", ["", " "])
def test_an_empty_storage_is_not_the_working_directory(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = load_job(write(tmp_path))
    with pytest.raises(UserError, match="The storage is empty"):
        run_work(job, storage, Progress(enabled=False))
    assert [path.name for path in tmp_path.iterdir()] == ["job.toml"]


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    with pytest.raises(UserError, match="it is not a file"):
        write_text(link, "x")
    assert link.is_char_device()


def test_missing_weights_are_called_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"network\.safetensors is missing\. Run the job again"):
        load_tensors(tmp_path / "network.safetensors")


@pytest.mark.parametrize("limit", ["latency_ms=0.5x", "params=0.001x"])
def test_a_relative_limit_of_an_export_is_explained(limit: str) -> None:
    with pytest.raises(UserError, match=r"belongs in a .*budget.*Write a number"):
        parse_limits([limit])
