"""Job files and overrides that are made to hurt."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import MAX_JOB_BYTES, load_job, parse_job
from raycomp.config.messages import MAX_LINES
from raycomp.errors import UserError
from raycomp.runtime.pipeline.run import run_job
from tests.security.conftest import Refused
from tests.unit.config.test_job import JOB

NINES = "9" * 5000


@pytest.mark.parametrize(
    "name",
    [
        "../up",
        "a/b",
        "/abs",
        ".hidden",
        "..",
        "",
        "a\\b",
        "x" * 65,
        "a b",
        "a\nb",
        "é",
        "-x",
        "con.",
        "a\u0000",
    ],
)
def test_a_name_that_is_no_plain_folder_is_refused(name: str, tiny_job: dict[str, Any]) -> None:
    for section in ("run", "budget"):
        job = {**tiny_job, "budget": [dict(b) for b in tiny_job["budget"]]}
        if section == "run":
            job["run"] = {"name": name}
        else:
            job["budget"][0]["name"] = name
        with pytest.raises(UserError, match="name"):
            parse_job(job)


@pytest.mark.parametrize(
    "task",
    ["../../etc", "/etc", "csv", "pandas", "glue/../../etc", "http://host/x", "a/b/c", "~/x", ".", "x"],
)
def test_a_task_name_reaches_no_local_folder(
    task: str, job_file: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    given = [f"task.name={task}", 'task.text=["text"]', "task.label=label"]
    said = refused("plan", str(job_file), *(part for g in given for part in ("--set", g)))
    assert "task" in said


def test_a_folder_that_looks_like_a_hub_name_is_not_read(
    job_file: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "owner" / "data").mkdir(parents=True)
    (tmp_path / "owner" / "data" / "train.csv").write_text("text,label\na,b\n")
    monkeypatch.chdir(tmp_path)
    given = ["task.name=owner/data", 'task.text=["text"]', "task.label=label"]
    said = refused("plan", str(job_file), *(part for g in given for part in ("--set", g)))
    assert "is not a dataset of the Hub" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"[train]\nbatch_size = {NINES}", "4300 digits"),
        (f"[train]\nbatch_size = {NINES[:4000]}", "larger than"),
        ("[train]\nclip = 1e999", "finite"),
        ("[train]\nclip = nan", "finite"),
        ("[train]\nepochs = 1e300", "10,000"),
        ("[train]\nsteps = -1", "from 0"),
        ("[train]\nbarrier_seconds = 1e308", "86400"),
        ("[train]\nepochs = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("[train]\nepochs = " + "[" * 50 + "]" * 50, "nested deeper"),
        ("[train]\nepochs = " + "{a=" * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ("[" + ".".join("a" * 500) + "]\nx = 1", "nested deeper"),
        ("\x00", "not valid TOML"),
        ('[model]\nname = "a\\u0000b"', "invalid character"),
        (f'[model]\nname = "{"x" * 5000}"', "characters"),
        ('[train]\n"\\u001b[31m" = 1', "Unknown setting"),
        ('[train]\n"x\\nerror: all is well" = 1', "Unknown setting"),
        ("[search]\nseeds = [-1]", "whole numbers"),
        ("[search]\nalpha = 1e9", "100"),
        ("[train]\nclip = 1979-05-27T07:32:00Z", "number"),
        ("#" * 10_000_000, "64 KiB"),
    ],
    ids=lambda v: str(v)[:24].encode("unicode_escape").decode(),
)
def test_a_job_file_that_is_made_to_hurt_is_one_line(
    text: str, words: str, tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "job.toml"
    path.write_text(f"{JOB}{text}\n")
    began = time.perf_counter()
    assert words in refused("plan", str(path))
    assert time.perf_counter() - began < 2


def test_bytes_that_are_no_text_and_files_that_are_none(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(b"\xff\xfe[run]\n")
    assert "cannot be read" in refused("plan", str(path))
    assert "64 KiB" in refused("plan", "/dev/zero")
    assert "cannot be read" in refused("plan", str(tmp_path))
    assert "cannot be read" in refused("plan", str(tmp_path / ("x" * 3000)))


def test_the_longest_job_file_is_read_in_time_and_its_mistakes_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    began = time.perf_counter()
    for body in (
        "\n".join(f"k{i} = 1" for i in range(6000)),
        "\n".join(f'[[budget]]\nname = "b{i}"\nparams = 1' for i in range(1500)),
    ):
        path.write_text((JOB + "[train]\n" + body)[: MAX_JOB_BYTES - 1])
        if body.startswith("k"):
            with pytest.raises(UserError) as caught:
                load_job(path)
            assert len(str(caught.value).splitlines()) == MAX_LINES + 1
            assert "more errors" in str(caught.value)
        else:
            assert len(load_job(path).budget) == 1501
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    "override",
    [
        f"train.batch_size={NINES}",
        "train.epochs=" + "[" * 3000,
        ".".join("a" * 500) + "=1",
        f"budget.{NINES}.params=1",
        "budget.².params=1",
        "run.name=../up",
        "run.name=\x1b[31mred",
        "budget.half.name=../../up",
        "=1",
        "task.labels=" + "[" * 20 + "]" * 20,
    ],
    ids=lambda v: v[:24].encode("unicode_escape").decode(),
)
def test_overrides_that_are_made_to_hurt_are_one_line(
    override: str, job_file: Path, refused: Refused
) -> None:
    refused("plan", str(job_file), "--set", override)


def test_a_run_does_not_write_through_a_link(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    job = parse_job(tiny_job)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / job.run_id).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a symbolic link"):
        run_job(job, tmp_path / "runs", None)  # type: ignore[arg-type]
    assert not list((tmp_path / "elsewhere").iterdir())
