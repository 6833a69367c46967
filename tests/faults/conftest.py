"""Runs in processes of their own, what is killed in them, and one run without a fault to compare with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.config.loader import parse_job
from raycomp.storage.tables import read_table
from raycomp.storage.tensors import load_tensors
from tests.conftest import make_tiny_job
from tests.integration.test_cli import toml

STEPS = 40
RECORD = "RAYCOMP_RECOVERY"  # a file that benchmarks/recovery.py reads


def start(
    job: dict[str, Any], folder: Path, storage: Path, address: str | None = None
) -> subprocess.Popen[str]:
    path = folder / f"{job['run']['name']}.toml"
    path.write_text(toml(job))
    given = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    given.pop("RAY_ADDRESS", None)
    given |= {"RAY_ADDRESS": address} if address else {}
    return subprocess.Popen(
        [sys.executable, "-m", "raycomp.cli", "run", str(path), "--storage", str(storage), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given, start_new_session=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 400) -> Any:
    """Wait until a condition holds, and return what it returned."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return found


def output(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the end of a process; one that hangs is ended, and is a failure."""
    try:
        return process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = output(process)
    assert process.returncode == 0, err
    result: dict[str, Any] = json.loads(out[out.index("{") :])
    return result


def write_error(process: subprocess.Popen[str]) -> str:
    """Return the one message that a run ends with."""
    _, err = output(process)
    assert process.returncode == 2, err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, err
    return lines[0]


def checkpoints(run_dir: Path, stage: str) -> list[Path]:
    return list((run_dir / "train" / stage).glob("checkpoint_*/"))


def ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(text.rsplit(")", 1)[1].split()[1])
        found.append(pid)
    return found


def children(driver: int, title: bytes) -> list[int]:
    """Process ids below a driver whose title holds a word, such as an actor's class."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title in command and driver in ancestors(int(folder.name)):
            found.append(int(folder.name))
    return found


def kill(pids: list[int]) -> None:
    """Kill, and wait until they are gone: the system only takes note of a kill."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a killed process is still there"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def steps_done(run_dir: Path) -> int:
    """How many steps of the super-network are done, as its progress file says."""
    try:
        return int(json.loads((run_dir / "progress" / "supernet.json").read_text())["done"])
    except (OSError, ValueError):
        return 0


def rows_done(run_dir: Path) -> int:
    """How many files of scores there are."""
    return len(list((run_dir / "tables" / "evaluations").glob("*.parquet")))


def recovered(
    fault: str, process: subprocess.Popen[str], measure: Callable[[Path], int], run_dir: Path
) -> None:
    """Wait for the first step or row after a fault, and note how long it took."""
    began, before = time.monotonic(), measure(run_dir)
    wait_for(lambda: measure(run_dir) > before or (run_dir / "deployed.json").exists(), process)
    note(fault, time.monotonic() - began)


def note(fault: str, seconds: float) -> None:
    if os.environ.get(RECORD):
        with Path(os.environ[RECORD]).open("a") as file:
            file.write(json.dumps({"fault": fault, "seconds": round(seconds, 1)}) + "\n")


@dataclass(frozen=True)
class Undisturbed:
    """A run without a fault, and what every other must equal."""

    job: dict[str, Any]
    run_dir: Path
    found: dict[str, Any]

    def equals(self, run_dir: Path, found: dict[str, Any]) -> None:
        """The same weights and theta to the bit, the same steps, rows and deployments, each once."""
        for name in ("network", "start"):
            one, two = (
                load_tensors(r / "supernet" / f"{name}.safetensors") for r in (self.run_dir, run_dir)
            )
            assert all(torch.equal(one[k], two[k]) for k in one)
        theta = [(r / "supernet" / "sampler.json").read_text() for r in (self.run_dir, run_dir)]
        assert theta[0] == theta[1]
        steps = [_sorted(r, "steps", _STEPS) for r in (self.run_dir, run_dir)]
        assert list(steps[1]["step"]) == list(range(STEPS))
        assert steps[0].equals(steps[1])
        curves = [_sorted(r, "distribution", _THETA) for r in (self.run_dir, run_dir)]
        last = [c[c["step"] == STEPS].reset_index(drop=True) for c in curves]
        assert len(last[0])
        assert last[0].equals(last[1])
        rows = [_sorted(r, "evaluations", _ROWS) for r in (self.run_dir, run_dir)]
        assert not rows[1].duplicated(_ROWS[:-1]).any()
        assert rows[0].equals(rows[1])
        assert _chosen(found) == _chosen(self.found)


_STEPS = ["step", "training", "phase", "loss", "p_exploit", "entropy", "explored", "tokens"]
_THETA = ["step", "variable", "choice", "probability"]
_ROWS = ["weights_id", "arch_id", "split", "precision", "metric", "value"]


def _sorted(run_dir: Path, name: str, columns: list[str]) -> Any:
    return read_table(run_dir, name)[columns].sort_values(columns).reset_index(drop=True)


def _chosen(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(d["budget"], d["arch_id"], d["selection"], d["validation"]) for d in found["deployments"]]


def quiet(run_dir: Path) -> None:
    """Nobody writes any more: an orphan would."""
    before = {p: p.stat().st_mtime_ns for p in run_dir.rglob("*")}
    time.sleep(1)
    assert {p: p.stat().st_mtime_ns for p in run_dir.rglob("*")} == before


def make_job(model: Path, data: Path) -> dict[str, Any]:
    """A job whose training and search each last a few seconds, with a teacher that needs no training."""
    job = make_tiny_job(model, data)
    job["train"] |= {"steps": [0, 0, 0, 0, 0, 0, STEPS], "checkpoint_seconds": 0.01, "cpus": 1}
    job["search"] = {"evaluations": 200, "batch": 8}
    return job


@pytest.fixture
def job(tuned_model: Path, tiny_data: Path) -> dict[str, Any]:
    return make_job(tuned_model, tiny_data)


@pytest.fixture(scope="session")
def undisturbed(
    tuned_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    job = make_job(tuned_model, tiny_data)
    found = finish(start(job, folder, folder))
    return Undisturbed(job, folder / parse_job(job).run_id, found)
