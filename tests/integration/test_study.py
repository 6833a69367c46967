"""A tiny study on real Ray: reused artifacts, rows, statistics, and resuming after an interruption."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from raycomp.config.loader import parse_job
from raycomp.config.study import StudySpec, parse_study
from raycomp.data.metrics import compute
from raycomp.encoder.architecture import Architecture
from raycomp.methods.context import RunContext
from raycomp.methods.scoring import score_forward
from raycomp.methods.yoco.finetune import finetune_networks, list_outcomes
from raycomp.report import ablation_table
from raycomp.report.statistics import kendall_tau
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.handle import RayRun
from raycomp.runtime.studies.ablation_rows import ranking_rows
from raycomp.runtime.studies.study import finished_runs, run_study
from raycomp.storage.files import read_array
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import part_files, read_table

STEPS = [0, 0, 0, 0, 0, 0, 1]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture
def study(tiny_job: dict[str, Any], tuned_model: Path) -> StudySpec:
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
            {"name": "tuned", "set": {"search.searchers": ["random"], "finetune.epochs": 1.0}},
        ],
        "published": {"train.csv": {"sng": {"half": 0.876}}},
    }
    return parse_study(job)


@pytest.fixture
def folder(study: StudySpec, storage: Path) -> Path:
    """The directory of the finished study, which the first test runs."""
    return run_study(study, storage, Progress(enabled=False))


def test_every_study_run_has_its_rows(folder: Path, study: StudySpec) -> None:
    assert finished_runs(folder) == {c.name for c in study.runs}
    rows = read_table(folder, "ablations")
    main = rows[(rows["budget"] == "half") & (rows["kind"] == "score")]
    assert sorted(zip(main["variant"], main["seed"], strict=True)) == [
        ("sng", 0), ("sng", 1), ("tuned", 0), ("tuned", 1),
    ]  # fmt: skip
    for row in main.to_dict("records"):
        run = folder / "runs" / row["run"]
        tuned = row["variant"] == "tuned"
        scored = list_outcomes(run)[0] if tuned else read_table(run, "deployments").iloc[0]
        assert row["method"] == ("finetuned" if tuned else "yoco")
        assert row["value"] == scored["validation"]
        assert row["gap"] == pytest.approx(scored["selection"] - scored["validation"])
        assert row["examples"] == 60
        # The saved logits give the same score.
        labels = read_array(RunLayout(run).predictions("labels", "validation"))
        logits = read_array(RunLayout(run).predictions(f"{row['method']}-half", "validation"))
        assert labels is not None
        assert logits is not None
        assert compute(["accuracy"], labels, logits)["accuracy"] == pytest.approx(row["value"])
    sng = main[main["variant"] == "sng"]
    assert (sng["published"] == 0.876).all()
    assert main[main["variant"] == "tuned"]["published"].isna().all()
    progress = rows[rows["kind"] == "progress"]
    assert set(zip(progress["metric"], progress["evaluations"], strict=True)) >= {
        ("best", 4),
        ("best10", 8),
    }
    assert set(rows["kind"]) == {"score", "healing", "progress", "cost"}
    teachers = rows[rows["method"] == "teacher"]
    assert len(teachers) == 4
    assert teachers.groupby("seed")["value"].nunique().tolist() == [1, 1]
    table = ablation_table(folder)
    assert set(table["basis"]) == {"examples and seeds"}
    assert table["test"].tolist() == ["", "", "paired bootstrap"]


def test_variants_with_other_searches_share_teacher_and_super_network(folder: Path) -> None:
    runs = {p.parent.name: p.parent for p in (folder / "runs").glob("*/job.json")}
    for seed in (0, 1):
        first = next(r for n, r in runs.items() if n.startswith(f"tiny-sng-train-s{seed}"))
        second = next(r for n, r in runs.items() if n.startswith(f"tiny-tuned-train-s{seed}"))
        taken = json.loads((second / "shared.json").read_text())
        assert taken == {"teacher": first.name, "supernet": first.name}
        weights = "supernet/network.safetensors"
        assert (first / weights).read_bytes() == (second / weights).read_bytes()
        assert not (first / "shared.json").exists()
        assert part_files(second, "steps") == []
    weights = {(r / "supernet" / "network.safetensors").read_bytes() for r in runs.values()}
    assert len(weights) == 2  # one a seed


def test_an_interrupted_study_runs_what_is_missing(folder: Path, study: StudySpec, storage: Path) -> None:
    before = read_table(folder, "ablations")
    lost = part_files(folder, "ablations")[0]
    others = {p: p.stat().st_mtime_ns for p in part_files(folder, "ablations") if p != lost}
    lost.unlink()
    assert run_study(study, storage, Progress(enabled=False)) == folder
    assert {p: p.stat().st_mtime_ns for p in others} == others
    after = read_table(folder, "ablations")
    order = ["run", "kind", "budget", "evaluations", "metric"]
    compared = [
        rows[rows["kind"] != "cost"].sort_values(order)[[*order, "variant", "seed", "value"]]
        for rows in (before, after)
    ]
    pd.testing.assert_frame_equal(*(r.reset_index(drop=True) for r in compared), check_exact=True)


def test_sampled_networks_are_trained_on_their_own_and_ranked(folder: Path, study: StudySpec) -> None:
    """The directory of a finished run has the teacher and the super-network that this needs."""
    study_run = study.runs[0]
    run = folder / "runs" / study_run.job.run_id
    data = study_run.job.model_dump(mode="json")
    data["finetune"] |= {"epochs": 1.0, "networks": 4, "start": "teacher"}
    finetune_networks(RayRun(RunContext(parse_job(data), run), Progress(enabled=False)))
    found = list_outcomes(run)
    assert [o["name"] for o in found] == [f"network-{i:03d}" for i in range(4)]
    assert all(0 <= o[k] <= 1 for o in found for k in ("inherited", "selection"))
    context = RunContext(parse_job(data), run)
    one = found[0]
    supernet, arch = context.supernet().eval(), Architecture.from_json(one["arch"])
    again = score_forward(context, lambda b: supernet(b, arch).logits, "selection")
    assert again.values["accuracy"] == one["inherited"]
    rows = [r for r in ranking_rows(run) if r["metric"] == "kendall_tau"]
    tau, _ = kendall_tau([o["inherited"] for o in found], [o["selection"] for o in found])
    assert rows[0]["value"] == pytest.approx(tau, nan_ok=True)
