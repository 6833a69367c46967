"""A job file that runs on this machine runs on a cluster: submitted, watched, stopped, resumed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.config.study import load_study_file
from raycomp.storage.tables import read_table
from tests.cluster.conftest import Head, free_ports
from tests.integration.test_cli import toml

pytestmark = pytest.mark.timeout(600)
STEPS = 200


@pytest.fixture
def job_file(tiny_job: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(toml(tiny_job))
    return path


def test_a_failing_job_has_its_message_and_its_exit_code(
    head: Head, job_file: Path, tmp_path: Path
) -> None:
    wrong = ["--set", "model.name=/no/such/model"]
    done = head.cli("submit", str(job_file), "--storage", str(tmp_path), *wrong)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Error: " in done.stdout
    assert "/no/such/model" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_job_is_stopped_goes_on_when_it_is_submitted_again_and_runs_to_the_same_table(
    head: Head, tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    """One job for all of it: each whole job costs the better part of a minute."""
    tiny_job["model"]["name"] = str(tuned_model)  # a teacher that needs no training
    # So many steps that it cannot be over before the stop arrives.
    tiny_job["train"] |= {"steps": [0, 0, 0, 0, 0, 0, STEPS], "checkpoint_seconds": 0.01}
    job_file = tmp_path / "long.toml"
    job_file.write_text(toml(tiny_job))
    run_id = parse_job(tiny_job).run_id
    run_dir = tmp_path / "runs" / run_id
    begun = head.cli("submit", str(job_file), "--storage", str(tmp_path / "runs"), "--detach")
    identity = begun.stdout.strip()
    assert begun.returncode == 0
    deadline = time.monotonic() + 200
    while not list((run_dir / "train" / "supernet").glob("checkpoint_*/")):
        assert time.monotonic() < deadline, head.cli("logs", identity).stdout
        time.sleep(0.2)
    assert head.cli("stop", identity).stdout == f"Job {identity}: stopped\n"
    done = head.cli("submit", str(job_file), "--storage", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "teacher done, supernet at step" in done.stdout
    steps = read_table(run_dir, "steps")
    trained = sorted(steps.loc[steps["method"] == "yoco", "step"])
    assert trained == list(range(STEPS))
    for said in ("super-network done in", "yoco", "half", "exports"):
        assert said in done.stdout
    frame = read_table(run_dir, "deployments")
    assert set(frame["budget"]) == {"half", "third"}
    assert "third" in (run_dir / "report.html").read_text()
    assert json.loads((run_dir / "environment.json").read_text())["torch"]
    mine = [j for j in json.loads(head.cli("status", "--json").stdout) if j["run"] == run_id]
    assert {j["id"]: j["status"] for j in mine if j["id"] == identity} == {identity: "STOPPED"}
    (second,) = (j for j in mine if j["id"] != identity)
    assert second["status"] == "SUCCEEDED"
    assert head.cli("logs", second["id"]).stdout in done.stdout


def test_a_study_is_submitted_as_a_job_is(
    head: Head, tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    tiny_job["model"]["name"] = str(tuned_model)
    tiny_job["train"]["steps"] = [0, 0, 0, 0, 0, 0, 1]
    tiny_job["budget"] = tiny_job["budget"][:1]
    del tiny_job["run"]
    text = (
        toml(tiny_job)
        + """
[study]
name = "pairs"
[[study.variant]]
name = "matched"
[[study.variant]]
name = "free"
set = { train.pairing = "free" }
[study.small]
study.seeds = [3]
study.variant = [{ name = "free", set = { train.pairing = "free" } }]
"""
    )
    path = tmp_path / "pairs.toml"
    path.write_text(text)
    study = load_study_file(path, ["run.live=[]"], "small")
    given = [str(path), "--storage", str(tmp_path / "runs"), "--preset", "small", "--set", "run.live=[]"]
    done = head.cli("submit", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"study {study.id} on " in done.stdout
    assert "Statistics" in done.stdout
    folder = tmp_path / "runs" / study.id
    assert set(read_table(folder, "ablations")["variant"]) == {"free"}
    assert "free" in (folder / "report.html").read_text()
    mine = [j for j in json.loads(head.cli("status", "--json").stdout) if j["run"] == study.id]
    assert [j["status"] for j in mine] == ["SUCCEEDED"]


def test_what_cannot_be_reached_is_one_message(head: Head, job_file: Path, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    given = ["submit", str(job_file), "--storage", str(tmp_path)]
    cases = {
        "No Ray dashboard answers at": [*given, "--address", nowhere],
        "must be the URL of a cluster's dashboard": [*given, "--address", "file:///etc/passwd"],
        "absolute path on its head node": ["submit", str(job_file), "--storage", "runs"],
        "is not known to the cluster": ["logs", "raycomp; touch /tmp/x"],
        "unknown setting 'train.epoch'": [*given, "--set", "train.epoch=1"],
        "lacks a [study] section": [*given, "--preset", "small"],
    }
    for message, arguments in cases.items():
        done = head.cli(*arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_nobody_gets_in_without_the_token(head: Head, job_file: Path, tmp_path: Path) -> None:
    for arguments in (["status"], ["submit", str(job_file), "--storage", str(tmp_path)]):
        done = head.cli(*arguments, token=False)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "token" in done.stderr
        assert "Traceback" not in done.stderr
