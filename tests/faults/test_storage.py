"""A full disk and corrupted files: a message that helps, and then the same result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycomp.config.loader import parse_job
from raycomp.runtime.training.checkpoints import CHECKPOINT_LIST
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table
from tests.faults.conftest import (
    ReferenceRun,
    assert_no_writes,
    checkpoints,
    find_processes,
    finish,
    finish_with_error,
    is_alive,
    kill,
    kill_group,
    start,
    steps_done,
    wait_for,
    wait_for_recovery,
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_disk(disk: Path) -> Path:
    """Fill all free space with one file, and return its path."""
    path = disk / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 2**16)
        except OSError:
            return path


@pytest.mark.slow
def test_a_full_disk_is_one_message_and_then_the_same_result(
    reference: ReferenceRun, small_disk: Path, tmp_path: Path
) -> None:
    run_dir = small_disk / parse_job(reference.job).run_id
    process = start(reference.job, tmp_path, small_disk)
    wait_for(lambda: len(checkpoints(run_dir, "supernet")) > 0, process)
    ballast = fill_disk(small_disk)
    message = finish_with_error(process)
    assert "No space left" in message or "ree space" in message, message

    ballast.unlink()
    resumed = start(reference.job, tmp_path, small_disk)
    wait_for_recovery("storage full, freed, same command", resumed, steps_done, run_dir)
    reference.assert_equal(run_dir, finish(resumed))
    assert_no_writes(run_dir)


@pytest.mark.slow
def test_training_resumes_although_ray_trains_list_of_checkpoints_is_corrupted(
    reference: ReferenceRun, tmp_path: Path
) -> None:
    """Ray Train overwrites the list in place: a full disk leaves it empty."""
    run_dir = tmp_path / reference.run_dir.name
    layout = RunLayout(run_dir)
    process = start(reference.job, tmp_path, tmp_path)
    wait_for(lambda: steps_done(run_dir) > 0, process)

    # Ray's processes survive the driver for a moment, and would write the list again.
    ray_processes = find_processes(process.pid, b"ray::")
    wait_for(lambda: len(checkpoints(run_dir, "supernet")) > 0, process)
    kill_group(process)
    kill([pid for pid in ray_processes if is_alive(pid)])

    newest = max(checkpoints(run_dir, "supernet"))
    step = int(json.loads((newest / "state.json").read_text())["step"])
    (layout.train("supernet") / CHECKPOINT_LIST).write_text("")
    layout.progress("supernet").unlink()

    resumed = start(reference.job, tmp_path, tmp_path)
    assert not layout.method("yoco").sampler.exists(), "training had ended before the kill"
    assert wait_for(lambda: steps_done(run_dir), resumed) > step
    reference.assert_equal(run_dir, finish(resumed))
    assert not layout.rescued_checkpoint("supernet").exists()


@pytest.mark.slow
def test_a_corrupted_table_is_named_and_its_rows_are_written_again(
    reference: ReferenceRun, tmp_path: Path
) -> None:
    """The other tables are in tests/unit/runtime/pipeline/test_mending.py."""
    run_dir = tmp_path / reference.run_dir.name
    shutil.copytree(reference.run_dir, run_dir)
    corrupted = sorted(RunLayout(run_dir).table("evaluations").glob("*.parquet"))[0]
    corrupted.write_bytes(corrupted.read_bytes()[: corrupted.stat().st_size // 2])

    message = finish_with_error(start(reference.job, tmp_path, tmp_path))
    assert str(corrupted) in message
    assert "ove it away" in message

    corrupted.unlink()
    output = finish(start(reference.job, tmp_path, tmp_path))
    reference.assert_equal(run_dir, output)
    columns = ["budget", "arch_id", "selection", "validation", "evaluations"]
    own_rows = read_table(reference.run_dir, "deployments")[columns]
    assert own_rows.equals(read_table(run_dir, "deployments")[columns])
