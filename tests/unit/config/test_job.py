from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.budget import DEVICE_DEFAULTS, parse_quantity
from raycomp.config.identity import artifact_keys
from raycomp.config.loader import load_job, parse_job, parse_stored
from raycomp.errors import UserError
from raycomp.methods import registry

ROOT = Path(__file__).parents[3]
JOB = """
[run]
name = "x"
[task]
name = "demo/polarity"
[[budget]]
name = "half"
encoder_params = "0.5x"
"""


def write(tmp_path: Path, text: str = JOB) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.toml")), ids=lambda p: p.name)
def test_every_ready_job_is_valid(path: Path) -> None:
    job = load_job(path)
    assert job.budget or job.run.methods == ["adabert"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trian.epochs=3", ["Unknown", "'trian", "Did you mean 'train.epochs'"]),
        ("train.epochz=3", ["train.epochz", "Did you mean 'train.epochs'"]),
        ("train.batch_size=big", ["train.batch_size", "big"]),
        ("train.batch_size=0", ["train.batch_size", "1"]),
        ("train.update=fast", ["train.update", "fast", "asng"]),
        ("run.name=../up", ["run.name", "letters"]),
        ("task.selection=nan", ["task.selection"]),
        ("noequals", ["noequals", "="]),
        ("search.alpha=inf", ["search.alpha"]),
        ("heal.learning_rate=2", ["'heal.learning_rate' = 2", '"auto"', "below 1"]),
        ("heal.learning_rate=fast", ["'heal.learning_rate' = 'fast'", "number, or it must be 'auto'"]),
        ("train.min_workers=2", ["min_workers = 2", "workers = 1", "at most"]),
    ],
)
def test_wrong_overrides_are_named(tmp_path: Path, override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_job(write(tmp_path), [override])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('encoder_params = "nan"', "quantity"),
        ("encoder_params = nan", "finite"),
        ("encoder_params = -1", "finite"),
        ("encoder_params = 0", "above 0"),
        ('encoder_params = "0.5y"', "0.5x"),
        ('params = "0.5x encoder"\nencoder_params = 1e6', "two limits on encoder_params"),
        ("min_retention = 0.5", "0 limits"),
        ('latency_ms = "8M"', "a number, or"),
        ("latency_ms = -8", "above 0"),
        ("params = 1e6\nthreads = 2", "has threads, but no limit that is measured"),
        ("latency_ms = 8\npercentile = 90", "percentile"),
        ('latency_ms = 8\nruntime = "tensorrt"', "runtime.*onnxruntime-int8.*openvino-int8"),
        ('latency_ms = 8\ndevice = "npu"', "device"),
        ('latency_ms = 8\nlength = 8\nlengths = "a.txt"', "length and lengths"),
        ('latency_ms = 8\nnode = "edge"\nprofile = "a.json"', "node and profile"),
    ],
)
def test_wrong_budgets_are_named(tmp_path: Path, line: str, word: str) -> None:
    text = JOB.replace('encoder_params = "0.5x"', line)
    with pytest.raises(UserError, match=word):
        load_job(write(tmp_path, text))


def test_a_missing_or_broken_file_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_job(tmp_path / "none.toml")
    with pytest.raises(UserError):
        load_job(write(tmp_path, "[run"))


def test_a_section_or_budget_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="budget"):
        load_job(write(tmp_path, '[task]\nname = "demo/polarity"\n'))


def test_two_budgets_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = JOB + '[[budget]]\nname = "half"\nflops = "0.5x"\n'
    with pytest.raises(UserError, match="same name: half"):
        load_job(write(tmp_path, twice))


@pytest.mark.parametrize(
    ("raw", "value"),
    [("12M", 12e6), (40e6, 40e6), ("2G", 2e9), ("0.5x", 50.0), ("0.5x encoder", 50.0), ("3e6", 3e6)],
)
def test_quantities(raw: Any, value: float) -> None:
    assert parse_quantity(raw, 100.0) == value


def test_identity_covers_what_changes_results_and_nothing_else(tiny_job: dict[str, Any]) -> None:
    base = parse_job(tiny_job).identity()
    for section, key, value in [
        ("train", "workers", 2),
        ("train", "min_workers", 1),
        ("train", "checkpoint_seconds", 1.0),
        ("search", "evaluators", 2),
        ("task", "allow_shared_rows", True),
        ("task", "positive", None),
    ]:
        changed = {**tiny_job, section: {**tiny_job[section], key: value}}
        assert parse_job(changed).identity() == base
    for section, key, value in [
        ("run", "seed", 1),
        ("train", "learning_rate", 2e-4),
        ("task", "positive", "good"),
    ]:
        changed = {**tiny_job, section: {**tiny_job[section], key: value}}
        assert parse_job(changed).identity() != base


def test_a_stored_job_means_what_it_meant_when_its_run_was_made(tiny_job: dict[str, Any]) -> None:
    tiny_job["run"]["methods"] = ["adabert"]
    old = parse_job(tiny_job).model_dump(mode="json")
    del old["adabert"]["exact_match"]  # came later
    assert parse_job(old).adabert.exact_match
    stored = parse_stored(old)
    assert not stored.adabert.exact_match
    tiny_job["adabert"] = {"exact_match": False}
    assert stored.identity() == parse_job(tiny_job).identity() != parse_job(old).identity()
    assert parse_stored(parse_job(old).model_dump(mode="json")).adabert.exact_match


def test_a_stored_search_from_before_candidates_has_none(
    tiny_job: dict[str, Any],
) -> None:
    tiny_job["run"]["methods"] = ["adabert"]
    job = parse_job(tiny_job)
    assert job.adabert.alpha_updates > 0
    assert job.adabert.candidates > 0
    old = job.model_dump(mode="json")
    for key in ("alpha_updates", "alpha_structures", "alpha_share", "candidates", "finalists"):
        del old["adabert"][key]
    stored = parse_stored(old)
    assert stored.adabert.alpha_updates == stored.adabert.candidates == 0
    assert stored.identity() != job.identity()


@pytest.mark.parametrize(
    ("method", "earlier"),
    [
        ("dynabert", {"tolerance": 0.0, "heal": False}),
        ("hat", {"choose_by": "score"}),
        ("cofi", {"match": "uniform"}),
    ],
)
def test_a_stored_run_keeps_the_rule_that_its_method_had(
    method: str, earlier: dict[str, Any], tiny_job: dict[str, Any]
) -> None:
    tiny_job["run"]["methods"] = [method]
    job = parse_job(tiny_job)
    old = job.model_dump(mode="json")
    for key in earlier:
        del old[method][key]
    del old["search"]["choose_by"]
    stored = parse_stored(old)
    assert stored.model_dump()[method] | earlier == stored.model_dump()[method]
    # A new run has the new rule and an identity of its own.
    spelled_out, new = (
        parse_stored(parse_job({**tiny_job, method: settings}).model_dump(mode="json"))
        for settings in (earlier, {})
    )
    assert stored.identity() == spelled_out.identity() != new.identity()


def test_a_stored_job_from_before_healing_does_not_heal(tiny_job: dict[str, Any]) -> None:
    del tiny_job["heal"]
    old = parse_job(tiny_job).model_dump(mode="json")
    del old["heal"]
    for budget in old["budget"]:
        del budget["min_retention"]
    stored = parse_stored(old)
    assert stored.heal.steps == 0
    assert stored.identity() == parse_job({**tiny_job, "heal": {"steps": 0}}).identity()
    assert stored.identity() != parse_job(tiny_job).identity()


def test_settings_of_devices_count_only_in_budgets_for_devices(tiny_job: dict[str, Any]) -> None:
    base = parse_job(tiny_job)
    spelled_out = copy.deepcopy(tiny_job)
    spelled_out["budget"][0] |= DEVICE_DEFAULTS
    assert parse_job(spelled_out).identity() == base.identity()
    assert "latency_ms" in base.model_dump()["budget"][0]

    ids = {base.identity()}
    keys = set()
    for changes in ({}, {"latency_ms": 9}, {"threads": 2}, {"percentile": 95}, {"profile": "a.json"}):
        job = {**tiny_job, "budget": [{"name": "half", "latency_ms": 8, **changes}]}
        ids.add(parse_job(job).identity())
        keys.add(artifact_keys(parse_job(job))["supernet"])
    assert len(ids) == 6
    # The space of such a job has other default widths, so it shares no super-network with other jobs.
    assert len(keys) == 1
    assert artifact_keys(base)["supernet"] not in keys


def test_a_mark_does_not_change_the_identity(tiny_job: dict[str, Any]) -> None:
    base = parse_job(tiny_job).identity()
    tiny_job["budget"][0]["min_retention"] = 0.5
    assert parse_job(tiny_job).identity() == base


@pytest.mark.parametrize("damage", [[], None, "text", {"adabert": []}, {"adabert": 3}, {"adabert": None}])
def test_a_stored_job_that_is_damaged_is_one_message(tiny_job: dict[str, Any], damage: Any) -> None:
    with pytest.raises(UserError):
        parse_stored({**tiny_job, **damage} if isinstance(damage, dict) else damage)


def test_override_of_the_task_replaces_the_other_source(tmp_path: Path, tiny_data: Path) -> None:
    job = load_job(
        write(tmp_path),
        [f"task.train={tiny_data / 'train.csv'}", 'task.text=["text"]', "task.label=label"],
    )
    assert job.task.name is None


def test_encoder_budget_has_two_spellings(tmp_path: Path) -> None:
    text = JOB.replace('encoder_params = "0.5x"', 'params = "0.5x encoder"')
    assert load_job(write(tmp_path, text)).budget[0].kind == "encoder_params"


def test_a_process_reads_the_packages_with_methods_once(
    tiny_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading them takes ten times as long as the check of a job, and a study checks hundreds of jobs."""
    groups: list[str] = []

    def record(group: str) -> list[Any]:
        groups.append(group)
        return []

    monkeypatch.setattr(registry, "entry_points", record)
    registry.external_methods.cache_clear()
    for _ in range(3):
        assert parse_job(tiny_job).identity()
    registry.external_methods.cache_clear()
    assert groups == [registry.ENTRY_POINT_GROUP]
