"""Fine-tuning of one network, and a cell's rows: on a folder that is written by hand, without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raycomp.config.job import Job
from raycomp.config.loader import parse_job
from raycomp.config.study import StudyRun
from raycomp.config.study_settings import StudySettings
from raycomp.encoder.architecture import Architecture
from raycomp.methods.context import RunContext
from raycomp.methods.scoring import score_forward
from raycomp.methods.yoco.finetune import finetune_network
from raycomp.runtime.studies.ablation_rows import _chance_score, ablation_rows
from raycomp.storage.files import read_array, write_array, write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import write_rows
from raycomp.storage.tensors import save_tensors

ARCH = Architecture(2, (2, 4), (32, 16))


@pytest.fixture
def run(tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path) -> tuple[Job, Path]:
    """A run with a teacher, and a super-network that differs from it in the classifier."""
    tiny_job["model"]["name"] = str(tuned_model)
    tiny_job["finetune"] = {"epochs": 1.0, "learning_rate": 1e-3}
    job, folder = parse_job(tiny_job), tmp_path / "tiny-run"
    context = RunContext(job, folder)
    context.record_facts()
    weights = context.network().state_dict()
    for name in ("teacher/network", "supernet/start"):
        save_tensors(folder / f"{name}.safetensors", weights)
    weights["classifier.weight"] = -weights["classifier.weight"]
    save_tensors(folder / "supernet" / "network.safetensors", weights)
    teacher = context.teacher().eval()
    scores = {
        split: score_forward(context, lambda b: teacher(b, None).logits, split, "teacher")
        for split in ("selection", "validation")
    }
    write_json(
        folder / "teacher" / "score.json",
        {split: {**score.values, "examples": score.examples} for split, score in scores.items()},
    )
    return job, folder


def tune(job: Job, folder: Path, **changes: Any) -> dict[str, Any]:
    data = job.model_dump(mode="json")
    data["finetune"] |= changes
    finetune_network(RunContext(parse_job(data), folder), "half", ARCH.to_json(), True)
    return json.loads((folder / "finetune" / "half.json").read_text())


def test_a_network_is_tuned_on_its_own_from_where_the_job_says(run: tuple[Job, Path]) -> None:
    job, folder = run
    context = RunContext(job, folder)
    supernet = context.supernet().eval()
    inherited = score_forward(context, lambda b: supernet(b, ARCH).logits, "selection")
    hardly = tune(job, folder, learning_rate=1e-9)
    assert hardly["inherited"] == inherited.values["accuracy"]
    assert hardly["selection"] == hardly["inherited"]
    teacher = context.teacher().eval()
    sliced = score_forward(context, lambda b: teacher(b, ARCH).logits, "selection")
    alone = tune(job, folder, learning_rate=1e-9, start="teacher")
    assert alone["inherited"] == hardly["inherited"]
    assert alone["selection"] == sliced.values["accuracy"]
    before = read_array(RunLayout(folder).predictions("finetuned-half", "validation"))
    learned = tune(job, folder, epochs=6.0)
    after = read_array(RunLayout(folder).predictions("finetuned-half", "validation"))
    assert before is not None
    assert after is not None
    assert abs(after - before).max() > 0.01
    assert learned["seconds"] > 0
    again = tune(job, folder, epochs=6.0)
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in learned.items() if k != "seconds"
    }
    assert torch.equal(
        context.supernet().state_dict()["classifier.weight"], supernet.state_dict()["classifier.weight"]
    )


def test_a_cell_that_tunes_is_judged_by_the_tuned_network(run: tuple[Job, Path]) -> None:
    job, folder = run
    outcome = tune(job, folder)
    deployed = {
        "run": folder.name, "method": "yoco", "budget": "half", "kind": "flops", "feasible": True,
        "metric": "accuracy", "selection": 0.75, "validation": 0.5, "arch": ARCH.to_json(), "params": 9,
    }  # fmt: skip
    write_rows(folder, "deployments", [deployed], "yoco")
    write_json(folder / "stages.json", {"now": "", "seconds": {"fine-tuning": 3.5}})
    settings = StudySettings(
        name="tiny",
        variant=[{"name": "a"}],  # type: ignore[list-item]
        published={"t": {"a": {"half": 0.8}, "teacher": {"teacher": 0.9}}},
    )
    rows = ablation_rows(folder, settings, StudyRun("a", "t", 0, job))
    main = next(r for r in rows if r.get("budget") == "half")
    assert main["method"] == "finetuned"
    assert (main["value"], main["selection"]) == (outcome["validation"], outcome["selection"])
    assert main["gap"] == pytest.approx(outcome["selection"] - outcome["validation"])
    assert (main["published"], main["examples"]) == (0.8, 60)
    teacher = next(r for r in rows if r.get("budget") == "teacher")
    assert teacher["published"] == 0.9
    cost = [(r["stage"], r["metric"], r["value"]) for r in rows if r["kind"] == "cost"]
    assert cost == [("fine-tuning", "seconds", 3.5)]
    untuned = job.model_copy(update={"finetune": job.finetune.model_copy(update={"epochs": 0.0})})
    (folder / "finetune" / "half.json").unlink()
    plain = next(
        r
        for r in ablation_rows(folder, settings, StudyRun("a", "t", 0, untuned))
        if r.get("budget") == "half"
    )
    assert (plain["method"], plain["value"], plain["gap"]) == ("yoco", 0.5, 0.25)


def test_ranked_networks_are_rows_of_their_own(run: tuple[Job, Path]) -> None:
    job, folder = run
    for i, (inherited, alone) in enumerate([(0.5, 0.6), (0.6, 0.7), (0.7, 0.9), (0.8, 0.8)]):
        outcome = {
            "name": f"network-{i:03d}", "deployed": False, "arch": ARCH.to_json(), "params": 9,
            "metric": "accuracy", "inherited": inherited, "selection": alone, "validation": None,
            "examples": 20, "seconds": 1.0,
        }  # fmt: skip
        write_json(folder / "finetune" / f"network-{i:03d}.json", outcome)
    settings = StudySettings(name="tiny", variant=[{"name": "a"}])  # type: ignore[list-item]
    labels = np.array([0, 1, 1, 0, 1])
    write_array(RunLayout(folder).predictions("labels", "selection"), labels)
    rows = ablation_rows(folder, settings, StudyRun("a", "t", 0, job))
    chance = next(r for r in rows if r["metric"] == "chance")
    assert (chance["kind"], chance["value"]) == ("agreement", pytest.approx(3 / 5))
    tau = next(r for r in rows if r["metric"] == "kendall_tau")
    assert (tau["evaluations"], tau["value"]) == (4, pytest.approx(4 / 6))
    assert [r["value"] for r in rows if r.get("method") == "retrained"] == [0.6, 0.7, 0.9, 0.8]


def test_chance_of_f1_is_that_of_the_positive_class(tmp_path: Path) -> None:
    """The most frequent class is the second one; the task calls the first one positive."""
    layout = RunLayout(tmp_path)
    write_array(layout.predictions("labels", "selection"), np.array([0, 1, 1, 1]))
    write_json(layout.facts, {"positive": 0})
    assert _chance_score(tmp_path, "f1") == 0.0
    write_json(layout.facts, {"positive": 1})
    assert _chance_score(tmp_path, "f1") == pytest.approx(6 / 7)
