"""Jobs on a cluster through its job API: submit, status, logs, stop, resume."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.config.study import load_study_file
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table
from tests.cluster.conftest import Head, free_ports
from tests.faults.conftest import checkpoints
from tests.integration.test_cli import toml

pytestmark = pytest.mark.timeout(600)
STEPS = 200


@pytest.fixture
def job_file(tiny_job: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(toml(tiny_job))
    return path


def test_a_failed_job_has_its_message_and_its_exit_code(
    head: Head, job_file: Path, tmp_path: Path
) -> None:
    wrong = ["--set", "model.name=/no/such/model"]
    done = head.cli("submit", str(job_file), "--storage", str(tmp_path), *wrong)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Error: " in done.stdout
    assert "/no/such/model" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_stopped_job_resumes_when_it_is_submitted_again(
    head: Head, tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    """This is one job for all checks, because each whole job takes most of a minute."""
    # A teacher that needs no training.
    tiny_job["model"]["name"] = str(tuned_model)
    # The training must not end before the stop arrives.
    tiny_job["train"] |= {"steps": [0, 0, 0, 0, 0, 0, STEPS], "checkpoint_seconds": 0.01}
    job_file = tmp_path / "long.toml"
    job_file.write_text(toml(tiny_job))
    run_id = parse_job(tiny_job).run_id
    layout = RunLayout(tmp_path / "runs" / run_id)

    # Submit it, and stop it in the training of the super-network.
    submitted = head.cli("submit", str(job_file), "--storage", str(tmp_path / "runs"), "--detach")
    identity = submitted.stdout.strip()
    assert submitted.returncode == 0
    deadline = time.monotonic() + 200
    while not checkpoints(layout.path, "supernet"):
        assert time.monotonic() < deadline, head.cli("logs", identity).stdout
        time.sleep(0.2)
    assert head.cli("stop", identity).stdout == f"Job {identity}: stopped\n"

    # Submit it again, and follow its output.
    resumed = head.cli("submit", str(job_file), "--storage", str(tmp_path / "runs"))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    for text in (
        "teacher done, super-network at step",
        "super-network done in",
        "yoco",
        "half",
        "exports",
    ):
        assert text in resumed.stdout

    steps = read_table(layout.path, "steps")
    assert sorted(steps.loc[steps["method"] == "yoco", "step"]) == list(range(STEPS))
    assert set(read_table(layout.path, "deployments")["budget"]) == {"half", "third"}
    assert "third" in layout.report.read_text()
    assert json.loads(layout.environment.read_text())["torch"]

    # The cluster lists both submissions.
    jobs = [job for job in json.loads(head.cli("status", "--json").stdout) if job["run"] == run_id]
    assert {job["id"]: job["status"] for job in jobs if job["id"] == identity} == {identity: "STOPPED"}
    (second,) = (job for job in jobs if job["id"] != identity)
    assert second["status"] == "SUCCEEDED"
    assert head.cli("logs", second["id"]).stdout in resumed.stdout


@pytest.mark.slow
def test_a_study_is_submitted_like_a_job(
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
    study = load_study_file(path, ["run.tracking=[]"], "small")

    storage = tmp_path / "runs"
    arguments = [str(path), "--storage", str(storage), "--preset", "small", "--set", "run.tracking=[]"]
    done = head.cli("submit", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"study {study.id} on " in done.stdout
    assert "Statistics" in done.stdout

    folder = storage / study.id
    assert set(read_table(folder, "ablations")["variant"]) == {"free"}
    assert "free" in (folder / "report.html").read_text()
    jobs = [job for job in json.loads(head.cli("status", "--json").stdout) if job["run"] == study.id]
    assert [job["status"] for job in jobs] == ["SUCCEEDED"]


def test_wrong_addresses_and_arguments_are_one_message(
    head: Head, job_file: Path, tmp_path: Path
) -> None:
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    submit = ["submit", str(job_file), "--storage", str(tmp_path)]
    cases = {
        "No Ray dashboard answers at": [*submit, "--address", nowhere],
        "must be the URL of a cluster's dashboard": [*submit, "--address", "file:///etc/passwd"],
        "absolute path on its head node": ["submit", str(job_file), "--storage", "runs"],
        "is not known to the cluster": ["logs", "raycomp; touch /tmp/x"],
        "Unknown setting 'train.epoch'": [*submit, "--set", "train.epoch=1"],
        "lacks a [study] section": [*submit, "--preset", "small"],
    }
    for message, arguments in cases.items():
        done = head.cli(*arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_a_command_without_the_token_is_refused(head: Head, job_file: Path, tmp_path: Path) -> None:
    for arguments in (["status"], ["submit", str(job_file), "--storage", str(tmp_path)]):
        done = head.cli(*arguments, token=False)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "token" in done.stderr
        assert "Traceback" not in done.stderr
