"""Runs in processes of their own, tools to kill parts of them, and a run without a fault as reference."""

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
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table
from raycomp.storage.tensors import load_tensors
from tests.conftest import make_tiny_job
from tests.integration.test_cli import toml

STEPS = 40
HEAL_STEPS = 60

RECORD_VARIABLE = "RAYCOMP_RECOVERY"
"""Environment variable with a file for recovery times, which benchmarks/recovery.py reads."""


# Processes


def start(
    job: dict[str, Any], folder: Path, storage: Path, address: str | None = None
) -> subprocess.Popen[str]:
    """Start a run in a process group of its own.

    Args:
        job: The job, as its file has it.
        folder: Directory for the job file.
        storage: Directory of the runs.
        address: Address of a Ray cluster. If absent, the run starts one.
    """
    path = folder / f"{job['run']['name']}.toml"
    path.write_text(toml(job))

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    if address:
        environment["RAY_ADDRESS"] = address

    command = [sys.executable, "-m", "raycomp.cli", "run", str(path), "--storage", str(storage), "--json"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 400) -> Any:
    """Wait until a condition is true while a process runs, and return the condition's value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.05)
    return value


def wait_for_end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the end of a process, and return its output and errors. A process that hangs is killed."""
    try:
        return process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a run that must succeed, and return its JSON output."""
    output, errors = wait_for_end(process)
    assert process.returncode == 0, errors
    result: dict[str, Any] = json.loads(output[output.index("{") :])
    return result


def finish_with_error(process: subprocess.Popen[str]) -> str:
    """Wait for a run that must fail, and return its only error message."""
    _, errors = wait_for_end(process)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors

    lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, errors
    return lines[0]


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a driver and everything in its process group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill(pids: list[int]) -> None:
    """Kill processes, and wait until they have ended: the system only records the signal at first."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a killed process still runs"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def find_processes(driver: int, title: bytes) -> list[int]:
    """Return the processes below a driver whose title has a word, such as the class of an actor."""
    pids = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title in command and driver in _ancestors(int(folder.name)):
            pids.append(int(folder.name))
    return pids


def _ancestors(pid: int) -> list[int]:
    pids = []
    while pid > 1:
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(text.rsplit(")", 1)[1].split()[1])
        pids.append(pid)
    return pids


# How far a run has come


def checkpoints(run_dir: Path, training: str) -> list[Path]:
    """Return the directories of a training's checkpoints."""
    return list(RunLayout(run_dir).train(training).glob("checkpoint_*/"))


def steps_done(run_dir: Path) -> int:
    """Return how many steps of the super-network are done, according to its progress file."""
    try:
        return int(json.loads(RunLayout(run_dir).progress("supernet").read_text())["done"])
    except (OSError, ValueError):
        return 0


def heal_checkpoints(run_dir: Path) -> list[Path]:
    """Return the directories of the checkpoints of healing."""
    return list(RunLayout(run_dir).train_dir.glob("heal.*/checkpoint_*/"))


def parts_done(run_dir: Path) -> int:
    """Return how many files the table `evaluations` has."""
    return len(list(RunLayout(run_dir).table("evaluations").glob("*.parquet")))


def wait_for_recovery(
    fault: str, process: subprocess.Popen[str], measure: Callable[[Path], int], run_dir: Path
) -> None:
    """Wait for the first step or row after a fault, and record how long it took.

    Args:
        fault: Name of the fault.
        process: Driver of the run.
        measure: Function that returns how far the run has come.
        run_dir: The run directory.
    """
    start_time = time.monotonic()
    before = measure(run_dir)
    summary = RunLayout(run_dir).summary("yoco")
    wait_for(lambda: measure(run_dir) > before or summary.exists(), process)

    path = os.environ.get(RECORD_VARIABLE)
    if path:
        seconds = round(time.monotonic() - start_time, 1)
        with Path(path).open("a") as file:
            file.write(json.dumps({"fault": fault, "seconds": seconds}) + "\n")


def assert_no_writes(run_dir: Path) -> None:
    """Check that nothing writes to a run directory any more, as an orphaned process would."""
    before = _modification_times(run_dir)
    time.sleep(1)
    assert _modification_times(run_dir) == before


def _modification_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


# The reference


STEP_COLUMNS = ["step", "training", "phase", "loss", "p_exploit", "entropy", "explored", "tokens"]
THETA_COLUMNS = ["step", "variable", "choice", "probability"]
SCORE_COLUMNS = ["weights_id", "arch_id", "split", "precision", "metric", "value"]


@dataclass(frozen=True)
class ReferenceRun:
    """A run without a fault. A run with a fault must have the same results.

    Attributes:
        job: The job, as its file has it.
        run_dir: The run directory.
        output: Its JSON output.
    """

    job: dict[str, Any]
    run_dir: Path
    output: dict[str, Any]

    def assert_equal(self, run_dir: Path, output: dict[str, Any]) -> None:
        """Check that weights and theta are equal bit for bit, and that each row is there exactly once."""
        own_files = RunLayout(self.run_dir).method("yoco")
        other_files = RunLayout(run_dir).method("yoco")
        assert_equal_tensors(own_files.supernet_network, other_files.supernet_network)
        assert_equal_tensors(own_files.supernet_start, other_files.supernet_start)
        assert own_files.sampler.read_text() == other_files.sampler.read_text()

        own_steps = _sorted_rows(self.run_dir, "steps", STEP_COLUMNS)
        other_steps = _sorted_rows(run_dir, "steps", STEP_COLUMNS)
        trainings = set(other_steps["training"])
        assert len(trainings) > 1, "nothing was healed"
        for training, rows in other_steps.groupby("training"):
            steps = STEPS if training == "supernet" else HEAL_STEPS
            assert sorted(rows["step"]) == list(range(steps)), training
        assert own_steps.equals(other_steps)

        healed = {path.parent.name for path in own_files.healed_outcomes()}
        assert healed
        for arch_id in healed:
            own_network = own_files.healed(arch_id).network
            assert_equal_tensors(own_network, other_files.healed(arch_id).network)

        # Theta is recorded at each start of an attempt too, so only the last step is compared.
        own_theta = _sorted_rows(self.run_dir, "distribution", THETA_COLUMNS)
        other_theta = _sorted_rows(run_dir, "distribution", THETA_COLUMNS)
        own_last = own_theta[own_theta["step"] == STEPS].reset_index(drop=True)
        other_last = other_theta[other_theta["step"] == STEPS].reset_index(drop=True)
        assert len(own_last)
        assert own_last.equals(other_last)

        own_scores = _sorted_rows(self.run_dir, "evaluations", SCORE_COLUMNS)
        other_scores = _sorted_rows(run_dir, "evaluations", SCORE_COLUMNS)
        assert not other_scores.duplicated(SCORE_COLUMNS[:-1]).any()
        assert own_scores.equals(other_scores)

        assert _deployed_models(output) == _deployed_models(self.output)


def assert_equal_tensors(first: Path, second: Path) -> None:
    """Check that two files have the same tensors, bit for bit."""
    first_tensors = load_tensors(first)
    second_tensors = load_tensors(second)
    for name, tensor in first_tensors.items():
        assert torch.equal(tensor, second_tensors[name]), name


def _sorted_rows(run_dir: Path, table: str, columns: list[str]) -> Any:
    return read_table(run_dir, table)[columns].sort_values(columns).reset_index(drop=True)


def _deployed_models(output: dict[str, Any]) -> list[tuple[Any, ...]]:
    columns = ("budget", "arch_id", "selection", "validation")
    return [tuple(row[column] for column in columns) for row in output["deployments"]]


def make_job(model: Path, data: Path) -> dict[str, Any]:
    """Return a job whose training and search last some seconds each. Its teacher needs no training."""
    job = make_tiny_job(model, data)
    job["train"] |= {"steps": [0, 0, 0, 0, 0, 0, STEPS], "checkpoint_seconds": 0.01, "cpus": 1}
    job["search"] = {"evaluations": 200, "batch": 8}
    job["heal"] = {"steps": HEAL_STEPS}
    return job


@pytest.fixture
def job(tuned_model: Path, tiny_data: Path) -> dict[str, Any]:
    return make_job(tuned_model, tiny_data)


@pytest.fixture(scope="session")
def reference(
    tuned_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> ReferenceRun:
    folder = tmp_path_factory.mktemp("reference")
    job = make_job(tuned_model, tiny_data)
    output = finish(start(job, folder, folder))
    return ReferenceRun(job, folder / parse_job(job).run_id, output)
