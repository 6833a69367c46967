from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from raycomp.cli import main as cli
from raycomp.config.flatten import flatten_settings
from raycomp.config.identity import artifact_keys
from raycomp.config.loader import load_job
from raycomp.config.study import is_study_file, load_study_file, parse_study
from raycomp.errors import UserError
from raycomp.methods.registry import METHODS
from raycomp.runtime.cluster import submission

ROOT = Path(__file__).parents[3]
READY = sorted((ROOT / "jobs" / "studies").glob("*.toml"))
STUDY = """
[task]
max_length = 32
[train]
epochs = 2.0
[[budget]]
name = "half"
encoder_params = "0.5x"
[study]
name = "modes"
tasks = ["glue/mrpc", "glue/sst2"]
[[study.variant]]
name = "both"
[[study.variant]]
name = "explore"
set = { train.mode = "explore", budget.half.encoder_params = "0.4x" }
[study.published."glue/mrpc"]
both = { half = 0.876 }
[study.small]
study.seeds = [7]
task.limit = 100
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def given(tiny_job: dict[str, Any]) -> dict[str, Any]:
    job = copy.deepcopy(tiny_job)
    job["study"] = {"name": "tiny", "variant": [{"name": "plain"}, {"name": "other"}]}
    return job


def test_a_study_is_a_grid_of_ordinary_jobs(path: Path) -> None:
    study = load_study_file(path)
    assert [(c.variant, c.task, c.seed) for c in study.runs] == [
        (v, t, s) for v in ("both", "explore") for t in ("glue/mrpc", "glue/sst2") for s in (0, 1, 2)
    ]
    first, last = study.runs[0].job, study.runs[-1].job
    assert (first.task.name, first.run.seed, first.train.mode) == ("glue/mrpc", 0, "eesng")
    assert (last.task.name, last.run.seed, last.train.mode) == ("glue/sst2", 2, "explore")
    assert (first.budget[0].encoder_params, last.budget[0].encoder_params) == ("0.5x", "0.4x")
    assert first.task.max_length == last.task.max_length == 32
    assert len({c.job.run_id for c in study.runs}) == 12
    assert study.runs[0].name == "both-glue-mrpc-s0"


def test_presets_and_overrides(path: Path) -> None:
    small = load_study_file(path, ["train.epochs=1", 'study.tasks=["demo/polarity"]'], "small")
    assert [(c.variant, c.task, c.seed) for c in small.runs] == [
        ("both", "demo/polarity", 7), ("explore", "demo/polarity", 7),
    ]  # fmt: skip
    assert small.runs[0].job.task.limit == 100
    assert small.runs[0].job.train.epochs == 1
    assert small.id != load_study_file(path).id
    assert load_study_file(path).id == load_study_file(path).id
    with pytest.raises(UserError, match="Presets: small"):
        load_study_file(path, None, "large")


def test_two_tasks_of_one_file_name_are_refused(path: Path) -> None:
    given = ['study.tasks=["owner/reviews.v1", "owner/reviews.v2"]', 'task.text=["t"]', "task.label=l"]
    with pytest.raises(
        UserError, match=r"reviews\.v1' and 'owner/reviews\.v2' of study.tasks have the same file name"
    ):
        load_study_file(path, given)


def test_dotted_and_nested_settings_are_one() -> None:
    assert flatten_settings({"train": {"mode": "x"}, "a.b": [1]}) == {"train.mode": "x", "a.b": [1]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"variants": []}, ["Unknown setting 'study.variants'", "Did you mean 'study.variant'"]),
        ({"variant": [{"name": "a", "sets": {}}]}, ["sets", "Did you mean 'study.variant.a.set'"]),
        ({"variant": [{"name": "a"}, {"name": "a"}]}, ["several variants named a"]),
        ({"variant": []}, ["study.variant"]),
        ({"seeds": []}, ["study.seeds"]),
        ({"seeds": [0, 0]}, ["study.seeds", "duplicates"]),
        ({"seeds": [-1]}, ["study.seeds"]),
        ({"name": "../up"}, ["study.name", "letters"]),
        ({"variant": [{"name": "a", "set": {"train": {"mood": "x"}}}]},
         ["Study variant 'a'", "train.mood", "train.mode"]),
        ({"variant": [{"name": "a", "set": {"train.mode": "x"}}]}, ["Study variant 'a'", "explore"]),
        ({"variant": [{"name": "a", "set": {"run": {"seed": 1}}}]}, ["Study variant 'a'", "study.seeds"]),
        ({"variant": [{"name": "a", "set": {"budget.none.flops": "1x"}}]}, ["'a'", "half, third"]),
        ({"variant": [{"name": "a", "structure_of": "glue/rte"}]}, ["structure_of", "glue/rte"]),
    ],
)  # fmt: skip
def test_mistakes_are_named(given: dict[str, Any], change: dict[str, Any], words: list[str]) -> None:
    given["study"] |= change
    with pytest.raises(UserError) as caught:
        parse_study(given)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_published_figures_name_tasks_and_variants(path: Path) -> None:
    for old, new, word in (
        ('published."glue/mrpc"', 'published."glue/mrcp"', "glue/mrcp"),
        ("both = { half", "booth = { half", "Did you mean 'both'"),
    ):
        path.write_text(STUDY.replace(old, new))
        with pytest.raises(UserError, match=word):
            load_study_file(path)


def test_a_study_is_no_job(path: Path) -> None:
    assert is_study_file(path)
    assert not is_study_file(ROOT / "jobs" / "quickstart.toml")
    with pytest.raises(UserError, match="is a study"):
        load_job(path)


def test_a_preset_needs_a_study() -> None:
    with pytest.raises(UserError, match=r"lacks a \[study\] section"):
        cli.run(ROOT / "jobs" / "quickstart.toml", preset="small")


def keys(given: dict[str, Any], **changes: Any) -> dict[str, str]:
    job = copy.deepcopy(given)
    job["study"]["variant"] = [
        {"name": "a", "set": {k.replace("__", "."): v for k, v in changes.items()}}
    ]
    job["study"]["seeds"] = [0]
    return artifact_keys(parse_study(job).runs[0].job)


def test_parts_are_shared_where_every_setting_that_they_rest_on_is_equal(given: dict[str, Any]) -> None:
    plain = keys(given)
    assert set(plain) == {"teacher", "supernet"}
    for same in (
        {"search__searchers": ["random"]}, {"search__evaluations": 9}, {"budget__half__flops": None},
        {"train__workers": 2}, {"train__cpus": 1.0}, {"search__reward": "printed"},
        {"finetune__epochs": 1.0}, {"run__methods": ["yoco"]},
    ):  # fmt: skip
        assert keys(given, **same) == plain, same
    for of_supernet in (
        {"train__mode": "explore"}, {"train__steps": 4}, {"space__reorder": False},
        {"train__pairs": "free"}, {"search__flops_length": 8}, {"train__learning_rate": 1e-5},
    ):  # fmt: skip
        found = keys(given, **of_supernet)
        assert found["teacher"] == plain["teacher"], of_supernet
        assert found["supernet"] != plain["supernet"], of_supernet
    for of_teacher in (
        {"teacher__epochs": 1.0}, {"task__max_length": 12}, {"task__limit": 100},
        {"model__name": "other"}, {"train__precision": "auto"}, {"task__selection": 0.2},
    ):  # fmt: skip
        found = keys(given, **of_teacher)
        assert found["teacher"] != plain["teacher"], of_teacher
        assert found["supernet"] != plain["supernet"], of_teacher


def test_seeds_share_nothing_and_a_fresh_cell_its_teacher_alone(given: dict[str, Any]) -> None:
    given["study"]["variant"] = [{"name": "a"}, {"name": "b", "fresh": True}]
    cells = parse_study(given).runs
    assert cells[0].artifact_keys["teacher"] != cells[1].artifact_keys["teacher"]
    assert cells[3].artifact_keys == {"teacher": cells[0].artifact_keys["teacher"]}


def test_a_structure_of_another_task_is_waited_for(given: dict[str, Any]) -> None:
    given["run"]["methods"] = ["adabert"]
    given["adabert"] = {"child": "scratch"}
    given["study"] |= {
        "tasks": ["glue/rte", "glue/mrpc"],
        "variant": [{"name": "searched"}, {"name": "from-rte", "structure_of": "glue/rte"}],
    }
    cells = parse_study(given).runs
    assert [c.structure_of for c in cells] == [None] * 6 + ["glue/rte"] * 6
    ready = cells[-1].with_structure('{"layers":1}')
    assert ready.job.adabert.structure == '{"layers":1}'
    assert ready.name == cells[-1].name
    given["adabert"] = {}
    assert parse_study(given).runs[-1].job.adabert.child == "inherited"  # weights of a parent of its own


def test_a_part_of_a_study_is_the_same_study(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    whole = load_study_file(path)
    part = whole.choose(["*-glue-sst2-s1", "both-glue-mrpc-s0"])
    assert part.id == whole.id
    assert part.runs == whole.runs
    # In the order of the study.
    assert [run.name for run in part.chosen_runs] == [
        "both-glue-mrpc-s0",
        "both-glue-sst2-s1",
        "explore-glue-sst2-s1",
    ]
    assert whole.choose([]).chosen_runs == whole.runs


def test_a_pattern_that_matches_no_run_is_refused_with_a_name(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    with pytest.raises(UserError, match=r"'both-glue-mprc-s0'. A name is .* such as 'both-glue-mrpc-s0'"):
        load_study_file(path).choose(["both-*", "both-glue-mprc-s0"])


def test_a_submitted_part_of_a_study_stays_that_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    study = load_study_file(path).choose(["both-*"])
    submission._write_request(tmp_path, study, "/mnt/runs", installed=True)
    monkeypatch.chdir(tmp_path)
    assert submission.read_request() == (study, "/mnt/runs")


def test_only_is_refused_for_a_job() -> None:
    with pytest.raises(UserError, match=r"The option --only 'yoco-\*' applies to studies only"):
        cli.run(ROOT / "jobs" / "quickstart.toml", only=["yoco-*"])


@pytest.mark.parametrize("path", READY, ids=lambda p: p.stem)
@pytest.mark.parametrize("preset", ["", "small"])
def test_every_ready_study_is_valid(path: Path, preset: str) -> None:
    study = load_study_file(path, None, preset)
    assert study.settings.name == path.stem
    assert preset or len(study.settings.seeds) >= 3
    budgets = {b.name for c in study.runs for b in c.job.budget} | {"cnn", "hidden150", "teacher"}
    for figures in study.settings.published.values():
        for values in figures.values():
            assert set(values) <= budgets
            assert all(0 < v < 1 for v in values.values())


def test_there_are_twelve_studies() -> None:
    assert [p.stem for p in READY] == [
        "adabert_table1", "amortise", "budgets", "crosstask", "eesng", "efficiency", "finetune",
        "knowledge", "methods", "ranking", "search", "update",
    ]  # fmt: skip


@pytest.mark.parametrize("preset", ["", "small"])
def test_the_comparison_has_a_variant_for_every_method(preset: str) -> None:
    study = load_study_file(ROOT / "jobs" / "studies" / "methods.toml", None, preset)
    methods = {run.job.run.methods[0] for run in study.runs}
    # The plain sampler of HAT's variant is not a system of the papers.
    assert methods == set(METHODS) - {"uniform"}
    assert all(len(run.job.run.methods) == 1 for run in study.runs)
    teachers = {artifact_keys(run.job)["teacher"] for run in study.runs}
    assert len(teachers) == len({(run.task, run.seed) for run in study.runs})
