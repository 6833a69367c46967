from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.errors import UserError
from raycomp.runtime.pipeline.forecast import (
    MESSAGE_SECONDS,
    Machines,
    Rates,
    Work,
    all_reduce_seconds,
    find_measured_rates,
    make_forecast,
)
from raycomp.runtime.pipeline.plan import make_plan
from raycomp.storage.files import write_json
from raycomp.storage.tables import write_rows

WORK = Work(
    teacher=(100, 32), supernet=(1000, 64), evaluations=80, selection=50, tokens=20.0, params=1_000_000
)
RATES = Rates(teacher=1e-3, supernet=2e-3, evaluation=0.1, source="made up")


def test_one_worker_pays_every_row_and_no_all_reduce() -> None:
    estimate = make_forecast(WORK, RATES, Machines())
    assert estimate["seconds"] == pytest.approx(
        {"teacher": 64.0, "supernet": 2560.0, "search": 400.0, "healing": 0.0}
    )
    assert estimate["hours"] == pytest.approx(3024 / 3600)
    assert estimate["allreduce_ms"] == 0
    assert estimate["cost"] is None


def test_healing_takes_the_time_of_one_network_a_step() -> None:
    work = replace(WORK, healing=(500, 32), samples=2)
    plain = make_forecast(WORK, RATES, Machines())
    estimate = make_forecast(work, RATES, Machines())
    # A step of the super-network trains two networks.
    assert estimate["seconds"]["healing"] == pytest.approx(500 * 32 * 20 * 2e-3 / 2)
    assert estimate["hours"] > plain["hours"]


def test_an_all_reduce_sends_twice_the_gradients_less_a_share() -> None:
    """4 MB in a ring of 4 over 1 Gbit/s: each sends 6 MB, 48 ms, in 6 messages."""
    assert all_reduce_seconds(1_000_000, 4, 1.0) == pytest.approx(0.048 + 6 * MESSAGE_SECONDS)
    assert all_reduce_seconds(1_000_000, 1, 1.0) == 0


def test_more_machines_share_rows_up_to_one_each_and_cost_by_the_hour() -> None:
    estimate = make_forecast(WORK, RATES, Machines(nodes=8, gpus=8, price=3.0, gigabits=1000.0))
    wait = [all_reduce_seconds(1_000_000, w, 1000.0) for w in (32, 64)]  # a teacher's batch has 32 rows
    assert estimate["workers"] == 64
    assert estimate["seconds"]["teacher"] == pytest.approx(100 * (20 * 1e-3 + wait[0]))
    assert estimate["seconds"]["supernet"] == pytest.approx(1000 * (20 * 2e-3 + wait[1]))
    assert estimate["seconds"]["search"] == pytest.approx(2 * 5.0)
    assert estimate["cost"] == pytest.approx(estimate["hours"] * 8 * 3.0)
    more = make_forecast(WORK, RATES, Machines(nodes=128, gpus=8, gigabits=1000.0))
    assert more["seconds"]["supernet"] >= estimate["seconds"]["supernet"]


def test_a_slow_link_is_most_of_the_time() -> None:
    estimate = make_forecast(WORK, RATES, Machines(nodes=8, gigabits=0.1))
    assert estimate["allreduce_share"] > 0.5


@pytest.fixture
def run(tiny_job: dict[str, Any], tmp_path: Path) -> Path:
    """A run of two workers: .5 s for 100 tokens of one network or 200 of two, after slower steps."""
    tiny_job["train"]["workers"] = 2
    folder = tmp_path / "runs" / "tiny-1a2b3c4d"
    write_json(folder / "job.json", parse_job(tiny_job).model_dump(mode="json"))
    rows = [
        {"run": "tiny", "step": i, "seconds": 0.5 if i > 1 else 9.0, **more}
        for i in range(10)
        for more in (
            {"method": "teacher", "phase": "teacher", "tokens": 100},
            {"method": "yoco", "phase": "heads-2", "tokens": 200, "entropy": 1.5}
            if i > 4
            else {"method": "yoco", "phase": "largest", "tokens": 100, "entropy": 0.0},
            {"method": "adabert", "phase": "search", "tokens": 7},
            {"method": "yoco", "training": "heal.1a2b3c4d", "tokens": 900, "seconds": 0.1},
        )
    ]
    write_rows(folder, "steps", rows, "a")
    scored = {"run": "tiny", "arch_id": "a", "examples": 60}
    other = {**scored, "method": "adabert", "seconds": 99.0}
    write_rows(folder, "evaluations", [{**scored, "method": "yoco", "seconds": 3.0}, other], "a")
    return folder


def test_measured_steps_are_seconds_of_one_worker_a_token(run: Path, tiny_job: dict[str, Any]) -> None:
    estimate = find_measured_rates(run.parent, parse_job(tiny_job), False)
    assert estimate is not None
    assert estimate.supernet == pytest.approx(0.5 / 100)
    assert estimate.teacher == pytest.approx(0.5 / 100)
    assert estimate.evaluation == pytest.approx(3.0 / 60)
    assert str(run) in estimate.source
    assert (
        find_measured_rates(run.parent, parse_job(tiny_job), True) is None
    )  # a processor says nothing of a GPU


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("model", "name", "other/model"), ("task", "max_length", 32), ("train", "samples", 4)],
)
def test_a_run_of_another_network_measures_nothing(
    section: str, key: str, value: Any, run: Path, tiny_job: dict[str, Any]
) -> None:
    tiny_job[section][key] = value
    assert find_measured_rates(run.parent, parse_job(tiny_job), False) is None


def test_a_run_that_is_not_whole_is_passed_over(run: Path, tiny_job: dict[str, Any]) -> None:
    (run.parent / "torn-00000000").mkdir()
    (run.parent / "torn-00000000" / "job.json").write_text("{")
    (run.parent / "other-00000000").mkdir()
    (run.parent / "other-00000000" / "job.json").write_text(json.dumps({"model": {}}))
    assert find_measured_rates(run.parent, parse_job(tiny_job), False) is not None


def test_the_plan_says_which_source_it_used(run: Path, tiny_job: dict[str, Any], tmp_path: Path) -> None:
    tiny_job["train"].pop("workers")
    job = parse_job(tiny_job)
    estimate = make_plan(job, Machines(nodes=2, price=1.0), run.parent)["forecast"]
    assert estimate["source"].endswith(str(run))
    assert estimate["cost"] == pytest.approx(2 * estimate["hours"])
    assert "measured in" in make_plan(job, None, run.parent)["time"]
    guess = make_plan(job, Machines(nodes=2), tmp_path / "none")["forecast"]
    assert guess["source"].startswith("no run measured a step")
    assert guess["hours"] > 0
    with pytest.raises(UserError, match="on a GPU"):
        make_plan(job, Machines(nodes=8, gpus=8), run.parent)
