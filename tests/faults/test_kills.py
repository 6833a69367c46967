"""Whatever is killed: the run ends as one without a fault, and no row is lost or doubled."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.config.loader import parse_job
from raycomp.storage.tables import read_table
from raycomp.storage.tensors import load_tensors
from tests.faults.conftest import (
    Undisturbed,
    checkpoints,
    children,
    finish,
    kill,
    quiet,
    recovered,
    rows_done,
    start,
    steps_done,
    wait_for,
)

pytestmark = pytest.mark.timeout(900)  # whole runs, several of them


def test_a_killed_driver_is_taken_up_again_with_the_same_result(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    job = undisturbed.job
    run_dir = tmp_path / parse_job(job).run_id
    process = start(job, tmp_path, tmp_path)
    wait_for(lambda: len(checkpoints(run_dir, "supernet")) > 0, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    second = start(job, tmp_path, tmp_path)
    recovered("driver, in training", second, steps_done, run_dir)
    wait_for(lambda: rows_done(run_dir) > 0, second)
    os.killpg(second.pid, signal.SIGKILL)
    second.wait()
    assert not (run_dir / "deployed.json").exists()
    found = finish(start(job, tmp_path, tmp_path))
    undisturbed.equals(run_dir, found)
    quiet(run_dir)


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


@pytest.mark.parametrize(
    ("what", "title"),
    [
        ("training worker", b"RayTrainWorker"),
        pytest.param("sampler actor", b"ray::SamplerHost", marks=pytest.mark.slow),
    ],
)
def test_what_is_killed_in_training_is_replaced_with_the_same_result(
    what: str, title: bytes, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    process = start(undisturbed.job, tmp_path, tmp_path)
    run_dir = tmp_path / parse_job(undisturbed.job).run_id
    wait_for(lambda: len(checkpoints(run_dir, "supernet")) > 0, process)
    victims = wait_for(lambda: children(process.pid, title), process)
    kill(victims)
    recovered(what, process, steps_done, run_dir)
    undisturbed.equals(run_dir, finish(process))
    quiet(run_dir)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "title"),
    [
        ("evaluator", b"ray::Evaluator"),
        ("ledger", b"ray::Ledger"),
        ("Tune trial", b"ray::ImplicitFunc"),
    ],
)
def test_what_is_killed_in_the_search_is_replaced_with_the_same_result(
    what: str, title: bytes, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    process = start(undisturbed.job, tmp_path, tmp_path)
    run_dir = tmp_path / parse_job(undisturbed.job).run_id
    wait_for(lambda: steps_done(run_dir) > 0, process)
    wait_for(lambda: children(process.pid, b"ray::Evaluator.evaluate"), process)  # it scores
    victims = wait_for(lambda: children(process.pid, title), process)
    kill(victims)
    assert not list((run_dir / "search").glob("*.*.*.json")), "the search was over before the kill"
    recovered(what, process, rows_done, run_dir)
    undisturbed.equals(run_dir, finish(process))
    quiet(run_dir)


@pytest.mark.slow
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
    columns = ["training", "step", "loss", "entropy", "tokens"]
    pairs = [
        f.sort_values(["training", "step"])[columns].reset_index(drop=True) for f in (steps, reference)
    ]
    assert pairs[0].equals(pairs[1])
    keys = ("arch_id", "selection", "validation", "params")
    assert [[d[k] for k in keys] for d in found["deployments"]] == [
        [d[k] for k in keys] for d in whole["deployments"]
    ]
