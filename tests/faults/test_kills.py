"""A run that is killed goes on where it stopped, with the same result and no row lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.jobfile import parse_job
from raycomp.runtime.checkpoint import load_tensors
from raycomp.tables import read_table
from tests.integration.test_cli import toml

STEPS = 40
pytestmark = pytest.mark.timeout(900)  # whole runs, several of them


@pytest.fixture
def job(tiny_job: dict[str, Any]) -> dict[str, Any]:
    tiny_job["train"] |= {"steps": [0, 0, 0, 0, 0, 0, STEPS], "checkpoint_seconds": 0.01, "cpus": 1}
    return tiny_job


def start(job: dict[str, Any], folder: Path, storage: Path) -> subprocess.Popen[str]:
    path = folder / "job.toml"
    path.write_text(toml(job))
    given = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    given.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "raycomp.cli", "run", str(path), "--storage", str(storage), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given, start_new_session=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    result: dict[str, Any] = json.loads(out[out.index("{") :])
    return result


def checkpoints(run_dir: Path, stage: str) -> list[Path]:
    return list((run_dir / "train" / stage).glob("checkpoint_*"))


def test_a_killed_driver_is_taken_up_again_with_the_same_result(
    job: dict[str, Any], tmp_path: Path
) -> None:
    run_id = parse_job(job).run_id
    whole = tmp_path / "whole"
    expected = finish(start(job, tmp_path, whole))
    cut = tmp_path / "cut"
    run_dir = cut / run_id
    process = start(job, tmp_path, cut)
    wait_for(lambda: len(checkpoints(run_dir, "supernet")) > 0, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    second = start(job, tmp_path, cut)
    table = run_dir / "tables" / "evaluations"
    wait_for(lambda: len(list(table.glob("*.parquet"))) > 0, second)
    os.killpg(second.pid, signal.SIGKILL)
    second.wait()
    assert not (run_dir / "deployed.json").exists()
    third = start(job, tmp_path, cut)
    found = finish(third)

    one = load_tensors(whole / run_id / "supernet" / "network.safetensors")
    two = load_tensors(run_dir / "supernet" / "network.safetensors")
    assert all(torch.equal(one[k], two[k]) for k in one)
    steps = read_table(run_dir, "steps")
    assert sorted(steps.loc[steps["method"] == "yoco", "step"]) == list(range(STEPS))
    reference = read_table(whole / run_id, "steps")
    columns = ["method", "step", "phase", "loss", "p_exploit", "entropy", "explored", "tokens"]
    pairs = [
        f.sort_values(["method", "step"])[columns].reset_index(drop=True) for f in (steps, reference)
    ]
    assert pairs[0].equals(pairs[1])
    rows = read_table(run_dir, "evaluations")
    assert not rows.duplicated(["weights_id", "arch_id", "split", "precision", "metric"]).any()
    for a, b in zip(found["deployments"], expected["deployments"], strict=True):
        assert (a["budget"], a["arch_id"], a["validation"]) == (
            b["budget"],
            b["arch_id"],
            b["validation"],
        )
    leftovers = list(run_dir.rglob("*.tmp"))
    assert not leftovers or all(p.name.startswith(".") for p in leftovers)


def test_a_second_process_on_the_same_run_is_refused(job: dict[str, Any], tmp_path: Path) -> None:
    first = start(job, tmp_path, tmp_path / "runs")
    lock = tmp_path / "runs" / parse_job(job).run_id / ".lock"
    wait_for(lambda: lock.exists() and lock.read_text() != "", first)
    second = start(job, tmp_path, tmp_path / "runs")
    _, err = second.communicate(timeout=120)
    assert second.returncode == 2
    assert f"process {first.pid}" in err
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()


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


def training_workers(driver: int) -> list[int]:
    """Process ids of Ray Train's workers below a driver."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"RayTrainWorker" in command and driver in ancestors(int(folder.name)):
            found.append(int(folder.name))
    return found


def test_a_killed_worker_is_replaced_and_the_run_ends(job: dict[str, Any], tmp_path: Path) -> None:
    run_id = parse_job(job).run_id
    process = start(job, tmp_path, tmp_path / "runs")
    run_dir = tmp_path / "runs" / run_id
    wait_for(lambda: len(checkpoints(run_dir, "supernet")) > 0, process)
    workers = training_workers(process.pid)
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    finish(process)
    steps = read_table(run_dir, "steps")
    assert sorted(steps.loc[steps["method"] == "yoco", "step"]) == list(range(STEPS))


def test_a_killed_search_of_a_cnn_is_taken_up_again_with_the_same_result(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    tiny_job["run"]["methods"] = ["adabert"]
    tiny_job["model"]["name"] = str(tuned_model)  # a teacher that needs no training
    tiny_job["train"] |= {"checkpoint_seconds": 0.01, "cpus": 1}
    tiny_job["augment"] = {"copies": 1, "candidates": 3}
    tiny_job["adabert"] = {
        "layers": 3, "width": 16, "embedding": 8, "batch_size": 8, "epochs": 2, "child_epochs": 2,
        "child": "scratch",
    }  # fmt: skip
    job = parse_job(tiny_job)
    trial = "beta4-gamma0_8-k3-s0"
    whole = finish(start(tiny_job, tmp_path, tmp_path / "whole"))
    run_dir = tmp_path / "cut" / job.run_id
    for stage in ("adabert-search", "adabert-child"):
        process = start(tiny_job, tmp_path, tmp_path / "cut")
        name = f"{stage}.{trial}"
        wait_for(lambda n=name: len(checkpoints(run_dir, n)) > 0, process)  # type: ignore[misc]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (run_dir / "adabert" / "deployed.json").exists()
    found = finish(start(tiny_job, tmp_path, tmp_path / "cut"))
    other = tmp_path / "whole" / job.run_id
    for file in ("parent.safetensors", "child.safetensors"):
        one = load_tensors(other / "adabert" / trial / file)
        two = load_tensors(run_dir / "adabert" / trial / file)
        assert all(torch.equal(one[k], two[k]) for k in one)
    steps, reference = read_table(run_dir, "steps"), read_table(other, "steps")
    columns = ["phase", "step", "loss", "entropy", "tokens"]
    pairs = [f.sort_values(["phase", "step"])[columns].reset_index(drop=True) for f in (steps, reference)]
    assert pairs[0].equals(pairs[1])
    keys = ("arch_id", "selection", "validation", "params")
    assert [[d[k] for k in keys] for d in found["deployments"]] == [
        [d[k] for k in keys] for d in whole["deployments"]
    ]
