"""Temporary files of killed processes: a resumed run removes its own, and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.errors import UserError
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline import run as pipeline
from raycomp.storage.files import atomic_write
from raycomp.storage.layout import RunLayout
from raycomp.storage.leftovers import LIVE_SECONDS, remove_leftovers

FILES = (
    ".job.json.0123456789ab.tmp",
    "supernet/.network.safetensors.0123456789ab.tmp",
    "tables/steps/.a.parquet.0123456789abcdef0123456789abcdef.tmp",
)
OTHERS = (
    ".lock",
    "job.json",
    "supernet/network.safetensors",
    "exports/yoco-half/model.safetensors",
    # Commands that do not lock the run may be writing these.
    "models/.yoco-half.01234567/model.safetensors",
    "served/onnxruntime/.teacher.01234567/model.safetensors",
    # Not a name that raycomp gives.
    "exports/.git/config",
    ".notes.tmp",
)


def write(folder: Path, names: tuple[str, ...], age_s: float) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (time.time() - age_s,) * 2)


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    hidden = ("exports/.yoco-half.01234567/model.safetensors", "certified/.teacher.01234567/a.onnx")
    write(tmp_path, (*FILES, *OTHERS, *hidden), LIVE_SECONDS + 60)
    remove_leftovers(RunLayout(tmp_path))
    assert names_in(tmp_path) == set(OTHERS)


def test_a_file_that_a_process_may_be_writing_stays(tmp_path: Path) -> None:
    write(tmp_path, FILES, 0.0)
    remove_leftovers(RunLayout(tmp_path))
    assert names_in(tmp_path) == set(FILES)


def test_the_names_are_those_of_atomic_files(tmp_path: Path) -> None:
    def write_old_and_die(path: Path) -> None:
        write(tmp_path, (path.name,), LIVE_SECONDS + 60)
        # As after a kill, the file of this name is left when the cleanup looks.
        remove_leftovers(RunLayout(tmp_path))
        assert not path.exists()
        path.write_text("x")

    atomic_write(tmp_path / "a.json", write_old_and_die)


def test_first_weights_of_a_trained_teacher_are_removed(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    start = str(layout.teacher_start.relative_to(tmp_path))
    write(tmp_path, (start,), 0.0)
    remove_leftovers(layout)
    # The training that they belong to is not over.
    assert layout.teacher_start.exists()
    write(tmp_path, (str(layout.teacher_network.relative_to(tmp_path)),), 0.0)
    remove_leftovers(layout)
    assert not layout.teacher_start.exists()


def test_a_run_that_resumes_removes_them(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        raise UserError("stop here")

    monkeypatch.setattr(pipeline, "check", lambda context: None)
    monkeypatch.setattr(pipeline, "repair_tables", stop)
    job = parse_job(tiny_job)
    write(tmp_path / job.run_id, FILES, LIVE_SECONDS + 60)
    with pytest.raises(UserError, match="stop here"):
        pipeline.run_job(job, tmp_path, Progress(enabled=False))
    assert names_in(tmp_path / job.run_id) == {".lock"}
