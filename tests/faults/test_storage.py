"""Storage that fills up, and a table that is torn: a message that helps, then the same result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycomp.config.loader import parse_job
from raycomp.runtime.training.checkpoints import CHECKPOINT_LIST
from raycomp.storage.tables import read_table
from tests.faults.conftest import (
    Undisturbed,
    alive,
    checkpoints,
    children,
    finish,
    kill,
    quiet,
    recovered,
    start,
    steps_done,
    wait_for,
    write_error,
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


def fill(disk: Path) -> Path:
    """Take all the space that is left."""
    path = disk / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 2**16)
        except OSError:
            return path


@pytest.mark.slow
def test_storage_that_fills_up_is_one_message_and_then_the_same_result(
    undisturbed: Undisturbed, small_disk: Path, tmp_path: Path
) -> None:
    run_dir = small_disk / parse_job(undisturbed.job).run_id
    process = start(undisturbed.job, tmp_path, small_disk)
    wait_for(lambda: len(checkpoints(run_dir, "supernet")) > 0, process)
    ballast = fill(small_disk)
    said = write_error(process)
    assert "No space left" in said or "free space" in said, said
    ballast.unlink()
    again = start(undisturbed.job, tmp_path, small_disk)
    recovered("storage full, freed, same command", again, steps_done, run_dir)
    undisturbed.equals(run_dir, finish(again))
    quiet(run_dir)


@pytest.mark.slow
def test_a_torn_list_of_checkpoints_costs_no_checkpoint(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Ray Train writes it in place: a disk that fills up leaves it empty."""
    run_dir = tmp_path / undisturbed.run_dir.name
    process = start(undisturbed.job, tmp_path, tmp_path)
    wait_for(lambda: steps_done(run_dir) > 0, process)
    theirs = children(process.pid, b"ray::")  # they would go on for a moment, and write the list again
    wait_for(lambda: len(checkpoints(run_dir, "supernet")) > 0, process)
    os.killpg(process.pid, signal.SIGKILL)
    kill([pid for pid in theirs if alive(pid)])
    process.wait()
    newest = max(checkpoints(run_dir, "supernet"))
    done = int(json.loads((newest / "state.json").read_text())["step"])
    (run_dir / "train" / "supernet" / CHECKPOINT_LIST).write_text("")
    (run_dir / "progress" / "supernet.json").unlink()
    again = start(undisturbed.job, tmp_path, tmp_path)
    assert not (run_dir / "supernet" / "sampler.json").exists(), "it was trained before the kill"
    assert wait_for(lambda: steps_done(run_dir), again) > done
    undisturbed.equals(run_dir, finish(again))
    assert not list((run_dir / "kept").iterdir())


@pytest.mark.slow
def test_a_torn_table_is_named_and_its_rows_are_written_anew(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """The other tables are in tests/unit/runtime/test_mending.py."""
    run_dir = tmp_path / undisturbed.run_dir.name
    shutil.copytree(undisturbed.run_dir, run_dir)
    torn = sorted((run_dir / "tables" / "evaluations").glob("*.parquet"))[0]
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    said = write_error(start(undisturbed.job, tmp_path, tmp_path))
    assert str(torn) in said
    assert "move it away" in said
    torn.unlink()
    found = finish(start(undisturbed.job, tmp_path, tmp_path))
    undisturbed.equals(run_dir, found)
    rows = [read_table(r, "deployments") for r in (undisturbed.run_dir, run_dir)]
    columns = ["budget", "arch_id", "selection", "validation", "evaluations"]
    assert rows[0][columns].equals(rows[1][columns])
