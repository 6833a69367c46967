"""Killed processes: the run ends like one without a fault, and no row is lost or written twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table
from tests.faults.conftest import (
    ReferenceRun,
    assert_equal_tensors,
    assert_no_writes,
    checkpoints,
    find_processes,
    finish,
    heal_checkpoints,
    kill,
    kill_group,
    parts_done,
    start,
    steps_done,
    wait_for,
    wait_for_recovery,
)

# Each test has several whole runs.
pytestmark = pytest.mark.timeout(900)


def test_a_killed_driver_resumes_with_the_same_result(reference: ReferenceRun, tmp_path: Path) -> None:
    job = reference.job
    run_dir = tmp_path / parse_job(job).run_id

    # The kills are in the training, in the search, and in the healing.
    first = start(job, tmp_path, tmp_path)
    wait_for(lambda: len(checkpoints(run_dir, "supernet")) > 0, first)
    kill_group(first)
    second = start(job, tmp_path, tmp_path)
    wait_for_recovery("driver, in training", second, steps_done, run_dir)
    wait_for(lambda: parts_done(run_dir) > 0, second)
    kill_group(second)
    third = start(job, tmp_path, tmp_path)
    wait_for(lambda: len(heal_checkpoints(run_dir)) > 0, third)
    kill_group(third)
    assert not RunLayout(run_dir).summary("yoco").exists(), "the run had ended before the kill"

    reference.assert_equal(run_dir, finish(start(job, tmp_path, tmp_path)))
    assert_no_writes(run_dir)


def test_a_second_process_on_the_same_run_is_refused(job: dict[str, Any], tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    lock = RunLayout(storage / parse_job(job).run_id).lock
    first = start(job, tmp_path, storage)
    wait_for(lambda: lock.exists() and lock.read_text() != "", first)

    second = start(job, tmp_path, storage)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 2
    assert f"process {first.pid}" in errors
    kill_group(first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "title"),
    [("training worker", b"RayTrainWorker"), ("sampler actor", b"ray::SamplerActor")],
)
def test_a_process_killed_in_training_is_replaced_with_the_same_result(
    name: str, title: bytes, reference: ReferenceRun, tmp_path: Path
) -> None:
    process = start(reference.job, tmp_path, tmp_path)
    run_dir = tmp_path / parse_job(reference.job).run_id
    wait_for(lambda: len(checkpoints(run_dir, "supernet")) > 0, process)
    kill(wait_for(lambda: find_processes(process.pid, title), process))

    wait_for_recovery(name, process, steps_done, run_dir)
    reference.assert_equal(run_dir, finish(process))
    assert_no_writes(run_dir)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("evaluator", b"ray::Evaluator"),
        ("ledger", b"ray::Ledger"),
        ("Tune trial", b"ray::ImplicitFunc"),
    ],
)
def test_a_process_killed_in_the_search_is_replaced_with_the_same_result(
    name: str, title: bytes, reference: ReferenceRun, tmp_path: Path
) -> None:
    process = start(reference.job, tmp_path, tmp_path)
    run_dir = tmp_path / parse_job(reference.job).run_id
    wait_for(lambda: steps_done(run_dir) > 0, process)

    # An evaluator scores architectures at this moment.
    wait_for(lambda: find_processes(process.pid, b"ray::Evaluator.evaluate"), process)
    kill(wait_for(lambda: find_processes(process.pid, title), process))
    outcomes = RunLayout(run_dir).method("yoco").search_outcomes()
    assert not list(outcomes), "the search had ended before the kill"

    wait_for_recovery(name, process, parts_done, run_dir)
    reference.assert_equal(run_dir, finish(process))
    assert_no_writes(run_dir)


@pytest.mark.slow
def test_a_killed_search_of_a_cnn_resumes_with_the_same_result(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    tiny_job["run"]["methods"] = ["adabert"]
    # A teacher that needs no training.
    tiny_job["model"]["name"] = str(tuned_model)
    tiny_job["train"] |= {"checkpoint_seconds": 0.01, "cpus": 1}
    tiny_job["augment"] = {"copies": 1, "candidates": 3}
    tiny_job["adabert"] = {
        "layers": 3, "width": 16, "embedding": 8, "batch_size": 8, "epochs": 2, "child_epochs": 2,
        "child": "scratch",
    }  # fmt: skip
    run_id = parse_job(tiny_job).run_id
    trial = "beta4-gamma0_8-k3-s0"
    reference_layout = RunLayout(tmp_path / "reference" / run_id)
    layout = RunLayout(tmp_path / "killed" / run_id)

    reference_output = finish(start(tiny_job, tmp_path, tmp_path / "reference"))
    for task in ("adabert-search", "adabert-child"):
        process = start(tiny_job, tmp_path, tmp_path / "killed")
        training = f"{task}.{trial}"
        wait_for(lambda name=training: len(checkpoints(layout.path, name)) > 0, process)  # type: ignore[misc]
        kill_group(process)
    assert not layout.summary("adabert").exists(), "the run had ended before the kill"
    output = finish(start(tiny_job, tmp_path, tmp_path / "killed"))

    assert_equal_tensors(reference_layout.trial(trial).parent, layout.trial(trial).parent)
    assert_equal_tensors(reference_layout.trial(trial).child, layout.trial(trial).child)

    columns = ["training", "step", "loss", "entropy", "tokens"]
    tables = [
        read_table(path, "steps").sort_values(["training", "step"])[columns].reset_index(drop=True)
        for path in (reference_layout.path, layout.path)
    ]
    assert tables[0].equals(tables[1])

    keys = ("arch_id", "selection", "validation", "params")
    models = [[row[key] for key in keys] for row in output["deployments"]]
    assert models == [[row[key] for key in keys] for row in reference_output["deployments"]]
