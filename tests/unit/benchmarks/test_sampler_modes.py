"""The comparison of sampler modes: settings, resumption, and the paired difference."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import sampler_modes
from benchmarks.intervals import student_interval
from benchmarks.sampler_modes import (
    MODES,
    complete_rows,
    load_mode_job,
    read_rows,
    summarise,
    train_and_score,
)
from raycomp.config.loader import parse_job

DEMO = str(Path(__file__).parents[3] / "jobs" / "quickstart.toml")
SHARES = (0.5, 0.25)


def test_the_interval_is_students() -> None:
    low, high = student_interval([1.0, 2.0, 3.0])
    # t of two degrees of freedom is 4.303; the error of the mean is 1 / sqrt(3).
    assert (low, high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)
    assert all(math.isnan(bound) for bound in student_interval([1.0]))


def test_each_mode_trains_another_sampler_on_the_same_seed() -> None:
    jobs = {mode: load_mode_job(DEMO, ["train.samples=3"], 5, mode) for mode in MODES}
    assert {mode: (job.train.mode, job.train.cost_share) for mode, job in jobs.items()} == {
        "eesng": ("eesng", 0),
        "exploit": ("exploit", 0),
        "explore": ("explore", 0),
        "stratified": ("explore", 1),
    }
    assert all((job.run.seed, job.train.samples) == (5, 3) for job in jobs.values())
    assert len({job.run_id for job in jobs.values()}) == len(MODES)


def make_jobs(num_seeds: int) -> dict[tuple[int, str], Any]:
    """Return jobs that have an identity only."""
    return {
        (seed, mode): SimpleNamespace(run_id=f"demo-{seed}-{mode}")
        for seed in range(num_seeds)
        for mode in MODES
    }


def test_an_interrupted_comparison_trains_only_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "out" / "sampler_modes.json"
    trained: list[tuple[int, str]] = []

    def train(job: Any, seed: int, mode: str) -> list[dict[str, Any]]:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((seed, mode))
        return [{"share": share, "num_tokens": 7, "loss": 0.5, "accuracy": 0.8} for share in SHARES]

    jobs = make_jobs(1)
    with pytest.raises(KeyboardInterrupt):
        complete_rows(path, jobs, SHARES, 50, train)
    first = list(trained)
    trained.clear()
    complete_rows(path, jobs, SHARES, 50, train)
    assert [*first, *trained] == list(jobs)
    assert len(read_rows(path)) == len(SHARES) * len(MODES)

    # Another number of networks is another figure.
    trained.clear()
    with pytest.raises(KeyboardInterrupt):
        complete_rows(path, jobs, SHARES, 20, train)
    assert len(trained) == 3


def test_the_difference_is_paired_by_seed_and_negative_where_eesng_has_the_lower_loss() -> None:
    rows = [
        {
            "seed": seed,
            "mode": mode,
            "share": 0.5,
            # Seeds differ by far more than the modes.
            "loss": seed + {"eesng": 0.0, "explore": 0.1 + 0.01 * seed}[mode],
            "accuracy": 0.8,
            "num_tokens": 100,
        }
        for seed in range(3)
        for mode in ("eesng", "explore")
    ]
    table = summarise(rows).set_index("mode")
    assert table.loc["explore", "eesng_minus"] == pytest.approx(-0.11)
    bounds = student_interval([-0.1, -0.11, -0.12])
    assert table.loc["explore", ["low", "high"]].tolist() == pytest.approx(bounds)
    assert table.loc["explore", "seeds"] == 3


def test_all_modes_of_a_seed_are_scored_on_the_same_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(sampler_modes, "make_budget", lambda context, share: share)
    monkeypatch.setattr(
        sampler_modes, "draw_networks", lambda *a: drawn.append(a[3].integers(1 << 40)) or ["arch"]
    )
    scores = (SimpleNamespace(mean=lambda: 0.5), SimpleNamespace(mean=lambda: 0.8))
    monkeypatch.setattr(sampler_modes, "score_rows", lambda *a: scores)
    for seed in (0, 0, 1):
        job = SimpleNamespace(run=SimpleNamespace(seed=seed))
        context: Any = SimpleNamespace(job=job, tokens=lambda split: None)
        sampler_modes.score_share(context, None, 0.5, 50)  # type: ignore[arg-type]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_training_gives_a_row_for_each_share(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    tiny_job["train"] |= {"steps": [0, 0, 0, 0, 0, 0, 2], "mode": "explore", "cost_share": 1}
    tiny_job["teacher"] |= {"epochs": 0.1}
    rows = train_and_score(parse_job(tiny_job), tmp_path, (0.5, 0.4), 3)
    assert [(row["share"], row["fitted"]) for row in rows] == [(0.5, 3), (0.4, 3)]
    assert rows[0]["num_tokens"] == rows[1]["num_tokens"] > 0
    assert all(math.isfinite(row["loss"]) for row in rows)
