from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raycomp.config.loader import parse_job
from raycomp.config.study import StudyRun, StudySpec, parse_study
from raycomp.errors import UserError
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.settings import OPERATIONS
from raycomp.methods.adabert.structure import Structure, parse_structure_setting, random_structure
from raycomp.methods.adabert.trials import list_trials, search_structure
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.finetune import find_excess_networks, list_targets
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.artifact_reuse import ARTIFACT_FILES, reuse_artifacts
from raycomp.runtime.studies.batches import plan_batches
from raycomp.runtime.studies.grid import threads_per_run
from raycomp.runtime.studies.stage_timer import StageTimer, read_current_stage, read_stage_seconds
from raycomp.runtime.studies.study import _check_jobs
from raycomp.runtime.studies.study_run import find_equal_job
from raycomp.storage.files import write_json, write_text
from raycomp.storage.study_layout import StudyLayout


def study(job: dict[str, Any], variants: list[dict[str, Any]], **more: Any) -> StudySpec:
    data = copy.deepcopy(job)
    data["study"] = {"name": "tiny", "seeds": [0, 1], "variant": variants, **more}
    return parse_study(data)


def finished(
    cell: StudyRun, runs: Path, teacher: str = "0.5", parts: tuple[str, ...] = tuple(ARTIFACT_FILES)
) -> Path:
    """Create a run directory whose files have the name of the run."""
    run = runs / cell.job.run_id
    write_json(run / "job.json", cell.job.model_dump(mode="json"))
    for part in parts:
        for pattern in ARTIFACT_FILES[part]:
            name = str(pattern).replace("*", "validation")
            write_text(run / name, teacher if name == "teacher/score.json" else f"{name} of {run.name}")
    return run


def names(batches: list[list[StudyRun]]) -> list[list[str]]:
    return [[c.name for c in batch] for batch in batches]


def test_what_two_cells_share_is_made_in_an_earlier_round(tiny_job: dict[str, Any]) -> None:
    spec = study(
        tiny_job,
        [
            {"name": "a"},
            {"name": "b", "set": {"search.alpha": 1.0}},
            {"name": "c", "set": {"train.mode": "explore"}},
            {"name": "d", "fresh": True},
        ],
    )
    all_runs = list(spec.runs)
    assert names(list(plan_batches(all_runs, spec.settings, set()))) == [
        ["a-train-s0", "a-train-s1"],
        ["b-train-s0", "b-train-s1", "c-train-s0", "c-train-s1", "d-train-s0", "d-train-s1"],
    ]
    left = [c for c in all_runs if c.variant != "a"]  # a is finished: b, c and d find its teachers
    first, *_ = plan_batches(left, spec.settings, {"a-train-s0", "a-train-s1"})
    assert [c.name for c in first][:2] == ["b-train-s0", "b-train-s1"]


def test_a_cell_waits_for_the_structure_that_it_takes(tiny_job: dict[str, Any]) -> None:
    tiny_job["run"]["methods"] = ["adabert"]
    tiny_job["adabert"] = {"child": "scratch"}
    variants = [{"name": "own"}, {"name": "from-rte", "structure_of": "glue/rte"}]
    spec = study(tiny_job, variants, tasks=["glue/mrpc", "glue/rte"], seeds=[0])
    assert names(list(plan_batches(list(spec.runs), spec.settings, set()))) == [
        ["own-glue-mrpc-s0", "own-glue-rte-s0"],
        ["from-rte-glue-mrpc-s0", "from-rte-glue-rte-s0"],
    ]


def test_a_chosen_run_whose_structure_is_missing_says_which_run_to_add(tiny_job: dict[str, Any]) -> None:
    tiny_job["run"]["methods"] = ["adabert"]
    tiny_job["adabert"] = {"child": "scratch"}
    variants = [{"name": "own"}, {"name": "from-rte", "structure_of": "glue/rte"}]
    spec = study(tiny_job, variants, tasks=["glue/mrpc", "glue/rte"], seeds=[0]).choose(["from-rte-*"])
    with pytest.raises(UserError, match="Add --only own-glue-rte-s0"):
        list(plan_batches(list(spec.chosen_runs), spec.settings, set()))
    # A run that has finished is not needed again.
    batches = plan_batches(list(spec.chosen_runs), spec.settings, {"own-glue-rte-s0"})
    assert names(list(batches)) == [["from-rte-glue-mrpc-s0", "from-rte-glue-rte-s0"]]


def test_a_structure_is_not_trained_again_on_its_own_task(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    tiny_job["run"]["methods"] = ["adabert"]
    tiny_job["adabert"] = {"child": "scratch"}
    variants = [
        {"name": "own"},
        {"name": "from-rte", "structure_of": "glue/rte"},
        {"name": "longer", "structure_of": "glue/rte", "set": {"adabert.child_epochs": 11.0}},
    ]
    spec = study(tiny_job, variants, tasks=["glue/mrpc", "glue/rte"], seeds=[0])
    runs = {c.name: c for c in spec.runs}
    searched = finished(runs["own-glue-rte-s0"], tmp_path)
    structure = random_structure(2, 3, OPERATIONS, 0).to_json()
    equal = {
        name: find_equal_job(searched, runs[name].with_structure(structure))
        for name in ("from-rte-glue-rte-s0", "from-rte-glue-mrpc-s0", "longer-glue-rte-s0")
    }
    assert equal == {
        "from-rte-glue-rte-s0": runs["own-glue-rte-s0"].job,
        "from-rte-glue-mrpc-s0": None,
        "longer-glue-rte-s0": None,
    }


def test_parts_are_taken_from_an_equal_run_alone(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    spec = study(
        tiny_job,
        [
            {"name": "a"},
            {"name": "b", "set": {"search.alpha": 1.0}},
            {"name": "c", "set": {"train.mode": "explore"}},
            {"name": "d", "set": {"teacher.epochs": 1}},
            {"name": "e", "fresh": True},
        ],
        seeds=[0],
    )
    runs = {c.variant: c for c in spec.runs}
    a = finished(runs["a"], tmp_path, parts=("teacher", "supernet"))
    reused = {
        v: reuse_artifacts(c.artifact_keys, tmp_path / c.job.run_id) for v, c in runs.items() if v != "a"
    }
    assert reused == {
        "b": {"teacher": a.name, "supernet": a.name}, "c": {"teacher": a.name}, "d": {},
        "e": {"teacher": a.name},
    }  # fmt: skip
    b = tmp_path / runs["b"].job.run_id
    for pattern in (*ARTIFACT_FILES["teacher"], *ARTIFACT_FILES["supernet"]):
        name = str(pattern).replace("*", "validation")
        assert (b / name).read_text() == (a / name).read_text()
    assert json.loads((b / "shared.json").read_text()) == reused["b"]
    assert not (tmp_path / runs["d"].job.run_id).exists()
    # A reused file is a copy: it does not change if the other run replaces its own later.
    before = (b / "supernet" / "network.safetensors").read_text()
    write_text(a / "supernet" / "network.safetensors", "another")
    assert (b / "supernet" / "network.safetensors").read_text() == before


def test_a_part_that_is_not_whole_or_rests_on_another_teacher_is_left(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    runs = study(tiny_job, [{"name": "a"}, {"name": "b"}, {"name": "c"}], seeds=[0]).runs
    a = finished(runs[0], tmp_path, parts=("teacher", "supernet"))
    (a / "supernet" / "sampler.json").unlink()
    b = finished(runs[1], tmp_path, teacher="0.6", parts=("teacher",))
    assert reuse_artifacts(runs[1].artifact_keys, b) == {}
    write_text(a / "supernet" / "sampler.json", "{}")
    assert reuse_artifacts(runs[1].artifact_keys, b) == {}  # a's super-network rests on a's teacher
    assert "of " + b.name in (b / "teacher" / "network.safetensors").read_text()
    write_text(a / "job.json", "{}")  # of another version
    assert reuse_artifacts(runs[2].artifact_keys, tmp_path / runs[2].job.run_id)["teacher"] == b.name


def test_a_stopwatch_adds_up_over_starts(tmp_path: Path) -> None:
    for _ in range(2):
        with StageTimer(tmp_path).bar("search"):
            assert read_current_stage(tmp_path) == "search"
    first = read_stage_seconds(tmp_path)["search"]
    with pytest.raises(KeyError), StageTimer(tmp_path).bar("search"):
        raise KeyError  # a stage that failed is not counted
    assert read_stage_seconds(tmp_path) == {"search": first}
    assert read_stage_seconds(tmp_path / "none") == {}


def test_random_structures_are_seeded_and_never_empty() -> None:
    structures = [random_structure(4, 3, OPERATIONS, seed) for seed in range(40)]
    assert structures == [random_structure(4, 3, OPERATIONS, seed) for seed in range(40)]
    assert {s.layers for s in structures} == {1, 2, 3, 4}
    assert len({s.operations for s in structures}) == 40
    rare = [random_structure(1, 1, ("zero", "skip"), seed).operations for seed in range(50)]
    assert ("zero", "zero") not in rare
    assert parse_structure_setting("random:3", 4, 3, OPERATIONS) == structures[3]
    assert parse_structure_setting(structures[3].to_json(), 1, 3, OPERATIONS) == structures[3]
    for text, word in (
        ("random:x", "not a structure"),
        ("{}", "not a structure"),
        (structures[3].to_json(), "nodes"),
    ):
        with pytest.raises(UserError, match=word):
            parse_structure_setting(text, 4, 2 if word == "nodes" else 3, OPERATIONS)


def test_a_given_structure_takes_the_place_of_the_search(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    structure = Structure(2, ("skip",) * 9)
    tiny_job["run"]["methods"] = ["adabert"]
    tiny_job["adabert"] = {"structure": structure.to_json(), "child": "scratch"}
    job = parse_job(tiny_job)
    trial = list_trials(job)[0]
    no_run: Any = None  # the structure is given, so nothing is trained
    search_structure(no_run, DistillationData(job, tmp_path, method="adabert"), trial)
    text = (tmp_path / "adabert" / trial.name / "structure.json").read_text()
    assert Structure.from_json(text) == structure


def test_networks_that_are_ranked_are_drawn_once_each(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    tiny_job["finetune"] = {"epochs": 1, "networks": 12}
    context = RunContext(parse_job(tiny_job), tmp_path)
    targets = list_targets(context)
    assert len({arch for _, arch, _ in targets}) == 12
    assert not any(deployed for *_, deployed in targets)
    assert targets == list_targets(context)
    assert find_excess_networks(context) == []
    tiny_job["finetune"]["networks"] = 820  # the space has 819
    assert "819" in find_excess_networks(RunContext(parse_job(tiny_job), tmp_path))[0]


@pytest.mark.parametrize(("together", "threads"), [(1, 8), (2, 4), (3, 2), (9, 1)])
def test_cells_that_run_together_share_a_node(
    monkeypatch: pytest.MonkeyPatch, together: int, threads: int
) -> None:
    monkeypatch.setattr("raycomp.runtime.studies.grid.share_cpus", lambda count: 8 // count)
    assert threads_per_run(together) == threads


def test_the_data_of_each_task_is_described_once_before_the_first_run(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    variants = [
        {"name": "a"},
        {"name": "b", "set": {"search.alpha": 1.0}},
        {"name": "short", "set": {"task.max_length": 6}},
    ]
    spec = study(tiny_job, variants)
    stream = io.StringIO()
    progress = Progress(console=Console(file=stream, width=200))
    _check_jobs(list(spec.runs), tmp_path / "study", progress)
    lines = stream.getvalue().splitlines()
    task = spec.runs[0].task
    titles = [line for line in lines if line.startswith("Data and teacher")]
    assert titles == [f"Data and teacher: a, {task}", f"Data and teacher: short, {task}"]
    assert any(line.startswith("  train ") for line in lines)
    # Runs that have not begun have no directory yet.
    assert not list(StudyLayout(tmp_path / "study").runs.glob("tiny*"))
