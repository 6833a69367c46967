"""A tiny study on real Ray: shared parts, rows, statistics, and going on after an interruption."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycomp.data.metrics import compute
from raycomp.runtime.progress import Progress
from raycomp.runtime.study import finished, run_study
from raycomp.studyfile import Study, parse_study
from raycomp.tables import part_files, predictions_path, read_array, read_table

STEPS = [0, 0, 0, 0, 0, 0, 1]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture
def study(tiny_job: dict[str, Any], tuned_model: Path) -> Study:
    job = copy.deepcopy(tiny_job)
    job["model"]["name"] = str(tuned_model)
    job["train"]["steps"] = STEPS
    job["search"] = {"evaluations": 8, "batch": 4}
    job["budget"] = [{"name": "half", "encoder_params": "0.5x"}]
    job["study"] = {
        "name": "tiny",
        "seeds": [0, 1],
        "variant": [
            {"name": "sng"},
            {"name": "random", "set": {"search": {"searchers": ["random"]}}},
        ],
        "published": {"train.csv": {"sng": {"half": 0.876}}},
    }
    return parse_study(job)


@pytest.fixture
def folder(study: Study, storage: Path) -> Path:
    """The finished study; the first test that asks pays for it."""
    return run_study(study, storage, Progress(enabled=False))


def test_every_cell_has_its_rows(folder: Path, study: Study) -> None:
    assert finished(folder) == {c.name for c in study.cells}
    rows = read_table(folder, "ablations")
    main = rows[(rows["budget"] == "half") & (rows["metric"] == "accuracy")]
    assert sorted(zip(main["variant"], main["seed"], strict=True)) == [
        ("random", 0), ("random", 1), ("sng", 0), ("sng", 1),
    ]  # fmt: skip
    for row in main.to_dict("records"):
        run = folder / "runs" / row["run"]
        deployed = read_table(run, "deployments").iloc[0]
        assert row["value"] == deployed["validation"]
        assert row["gap"] == pytest.approx(deployed["selection"] - deployed["validation"])
        assert row["examples"] == 60
        # What was kept of each answer gives the same score.
        labels = read_array(predictions_path(run, "labels", "validation"))
        logits = read_array(predictions_path(run, "yoco-half", "validation"))
        assert labels is not None
        assert logits is not None
        assert compute(["accuracy"], labels, logits)["accuracy"] == pytest.approx(row["value"])
    sng = main[main["variant"] == "sng"]
    assert (sng["published"] == 0.876).all()
    assert main[main["variant"] == "random"]["published"].isna().all()
    assert set(rows["metric"]) >= {"best@0004", "best10@0008", "seconds"}


def test_what_differs_in_the_search_alone_shares_teacher_and_super_network(folder: Path) -> None:
    runs = {p.parent.name: p.parent for p in (folder / "runs").glob("*/job.json")}
    for seed in (0, 1):
        first = next(r for n, r in runs.items() if n.startswith(f"tiny-sng-train-s{seed}"))
        second = next(r for n, r in runs.items() if n.startswith(f"tiny-random-train-s{seed}"))
        taken = json.loads((second / "shared.json").read_text())
        assert taken == {"teacher": first.name, "supernet": first.name}
        weights = "supernet/network.safetensors"
        assert (first / weights).read_bytes() == (second / weights).read_bytes()
        assert not (first / "shared.json").exists()
        assert part_files(second, "steps") == []
    weights = {(r / "supernet" / "network.safetensors").read_bytes() for r in runs.values()}
    assert len(weights) == 2  # one a seed


def test_an_interrupted_study_runs_what_is_missing(folder: Path, study: Study, storage: Path) -> None:
    before = read_table(folder, "ablations").sort_values(["run", "budget", "metric"])
    lost = part_files(folder, "ablations")[0]
    others = {p: p.stat().st_mtime_ns for p in part_files(folder, "ablations") if p != lost}
    lost.unlink()
    assert run_study(study, storage, Progress(enabled=False)) == folder
    assert {p: p.stat().st_mtime_ns for p in others} == others
    after = read_table(folder, "ablations").sort_values(["run", "budget", "metric"])
    figures = ["run", "variant", "seed", "budget", "metric", "value"]
    keep = before["metric"] != "seconds"
    again = after[after["metric"] != "seconds"]
    assert np.array_equal(before[keep][figures].to_numpy(), again[figures].to_numpy())
