"""The command line as a user meets it: messages, exit codes, JSON, and nothing left behind."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycomp.storage.tables import write_rows
from tests.command_line import Ended, call_command
from tests.conftest import make_sentences

CommandLine = Callable[..., Ended]


def toml(job: dict[str, Any]) -> str:
    lines = []
    for section, values in job.items():
        for table in values if isinstance(values, list) else [values]:
            lines.append(f"[[{section}]]" if isinstance(values, list) else f"[{section}]")
            lines += [f"{k} = {json.dumps(v)}" for k, v in table.items()]
    return "\n".join(lines) + "\n"


@pytest.fixture
def job_file(tiny_job: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(toml(tiny_job))
    return path


def cli(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    given = {k: v for k, v in os.environ.items() if not k.startswith("RAY_ADDRESS")}
    return subprocess.run(
        [sys.executable, "-m", "raycomp.cli", *args],
        capture_output=True, text=True, check=False, cwd=cwd, env=given, timeout=240,
    )  # fmt: skip


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line in this process."""
    return functools.partial(call_command, capsys)


def check_refused(here: CommandLine, *args: str, words: list[str]) -> None:
    ended = here(*args)
    assert ended.code not in (0, 1, None), ended
    assert ended.err.startswith("Error: ")
    for word in words:
        assert word in ended.err


def test_plan_says_what_would_be(
    job_file: Path, tmp_path: Path, here: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cli("plan", str(job_file), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["space"]["size"] == 9 + 81 + 729
    assert all(b["feasible"] for b in plan["budgets"])
    assert plan["steps"]["supernet"] == 21
    assert not list(tmp_path.rglob("steps*"))
    monkeypatch.chdir(tmp_path)
    text = here("plan", str(job_file), "--set", "budget.half.encoder_params=0.01x")
    assert text.code == 1
    assert "cannot be met" in text.out
    assert "Nearest" in text.out


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trian.epochs=3"], ["trian.epochs", "train.epochs"]),
        (["train.batch_size=lots"], ["train.batch_size"]),
        (["task.train=/none/there.csv"], ["/none/there.csv"]),
        (["budget.half.encoder_params=nan"], ["encoder_params"]),
        (["budget.half.encoder_params=0.001x"], ["smallest", "Nearest"]),
        (["task.label=stars"], ["stars", "label"]),
        (["model.name=/none/model"], ["/none/model"]),
        (["space.heads=[1,2]"], ["space.heads", "4"]),
        (["train.steps=[1,2]"], ["train.steps", "7"]),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else None,
)
def test_mistakes_are_one_message(
    job_file: Path, tmp_path: Path, here: CommandLine, overrides: list[str], words: list[str]
) -> None:
    sets = [part for o in overrides for part in ("--set", o)]
    storage = tmp_path / "runs"
    check_refused(here, "run", str(job_file), *sets, "--storage", str(storage), words=words)
    left = [p for p in storage.rglob("*") if p.is_file() and ".cache" not in p.parts]
    assert left == []


def test_bad_data_and_bad_weights(
    job_file: Path, tiny_model: Path, tmp_path: Path, here: CommandLine
) -> None:
    one = tmp_path / "one.csv"
    make_sentences(40, 0).assign(label="good").to_csv(one, index=False)
    empty = tmp_path / "empty.csv"
    make_sentences(0, 0).to_csv(empty, index=False)
    torn = tmp_path / "model"
    torn.mkdir()
    for path in tiny_model.iterdir():
        (torn / path.name).write_bytes(path.read_bytes())
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    base = ["run", str(job_file), "--storage", str(tmp_path / "runs")]
    text = ["--set", 'task.text=["text"]', "--set", "task.label=label"]
    check_refused(here, *base, "--set", f"task.train={one}", *text, words=["one class"])
    check_refused(here, *base, "--set", f"task.train={empty}", *text, words=["empty"])
    check_refused(here, *base, "--set", f"model.name={torn}", words=[str(torn)])


def test_a_warning_appears_once_on_standard_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, here: CommandLine
) -> None:
    """The package prints nothing by itself, so a command must show its warnings."""
    for _ in range(2):
        check_refused(here, "plan", str(tmp_path / "none.toml"), words=["none.toml"])
    logging.getLogger("raycomp").warning("The URL cannot be written.")
    assert capsys.readouterr().err == "The URL cannot be written.\n"


def test_storage_that_cannot_be_written(job_file: Path, tmp_path: Path, here: CommandLine) -> None:
    (tmp_path / "file").write_text("x")
    storage = str(tmp_path / "file" / "runs")
    check_refused(here, "run", str(job_file), "--storage", storage, words=["storage"])


def test_an_unreachable_cluster_is_one_message(job_file: Path, tmp_path: Path) -> None:
    """In a process of its own: this one is connected to Ray."""
    given = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    given["RAY_gcs_rpc_server_reconnect_timeout_s"] = "2"
    done = subprocess.run(
        [sys.executable, "-m", "raycomp.cli", "run", str(job_file), "--storage", str(tmp_path / "r")],
        capture_output=True, text=True, check=False, env=given, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-2000:]
    assert "No Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_interrupted_run_says_so_and_goes_on(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    tiny_job["teacher"]["epochs"] = 400
    job, storage = tmp_path / "long.toml", tmp_path / "runs"
    job.write_text(toml(tiny_job))
    process = subprocess.Popen(
        [sys.executable, "-m", "raycomp.cli", "run", str(job), "--storage", str(storage)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(storage.glob("*/progress/teacher.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "Interrupted. Run the same command again to resume." in err
    assert "Traceback" not in out + err
    assert not list(storage.glob("*/teacher/network.safetensors"))


def test_query_filters_and_explains(tmp_path: Path, here: CommandLine) -> None:
    rows = [
        {"run": "r", "method": "yoco", "budget": b, "params": p, "feasible": f, "validation": v}
        for b, p, f, v in [("a", 10, True, 0.8), ("b", 12, True, 0.9), ("c", 5, False, None)]
    ]
    (tmp_path / "job.json").write_text('{"run": {}, "task": {}}')
    write_rows(tmp_path, "deployments", rows, "yoco")
    query = ["query", str(tmp_path)]
    where = ["--where", "params < 20 and feasible"]
    best = here(*query, *where, "--best", "validation", "--json")
    assert [r["budget"] for r in json.loads(best.out)] == ["b"]
    lines = here(*query, "--where", "params < 11").out.splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["a", "c"]
    check_refused(here, *query, "--where", "parms < 1", words=["parms", "params"])
    check_refused(here, *query, "--where", "__import__('os')", words=["--where"])
    check_refused(here, *query, "--best", "arch", words=["arch"])
    check_refused(here, "query", str(tmp_path / "none"), words=["none"])
    check_refused(here, *query, "--table", "speeds", words=["speeds", "deployments"])
    torn = write_rows(tmp_path, "deployments", rows, "zz")
    torn.write_bytes(b"PAR1")
    check_refused(here, *query, words=["zz.parquet"])


def test_a_report_that_cannot_be_written_is_one_message(tmp_path: Path, here: CommandLine) -> None:
    (tmp_path / "one").mkdir()
    cases = {
        "does not exist": ["report", str(tmp_path / "none")],
        "is not a run directory and does not contain one": ["report", str(tmp_path / "one")],
        "Name it with --out": ["report", str(tmp_path), str(tmp_path / "one")],
    }
    for message, arguments in cases.items():
        ended = here(*arguments)
        assert ended.code == 2
        assert message in ended.err


@pytest.mark.parametrize(
    "command", ["plan", "run", "profile", "query", "export", "report", "submit", "status", "logs", "stop"]
)
def test_every_command_has_help_with_an_example(command: str, here: CommandLine) -> None:
    ended = here(command, "--help")
    assert ended.code == 0
    assert f"raycomp {command}" in ended.out
