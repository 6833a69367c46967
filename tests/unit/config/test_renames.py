from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from raycomp.config import renames
from raycomp.config.identity import artifact_keys
from raycomp.config.loader import load_job, parse_job, parse_stored
from raycomp.config.renames import OLD_NAMES
from raycomp.config.study import load_study_file, parse_study
from raycomp.errors import UserError

ROOT = Path(__file__).parents[3]
JOB = """
[run]
name = "x"
methods = ["yoco", "adabert"]
[task]
name = "demo/polarity"
[train]
{train} = 5
[[budget]]
name = "half"
encoder_params = "0.5x"
"""
VALUES: dict[str, Any] = {
    "run.tracking": [],
    "train.sampler_sync_steps": 5,
    "train.exploration_update": "plain",
    "train.pairing": "free",
    "search.shared_fraction": 0.25,
    "augment.consistent_pairs": False,
}
"""Values that are not the defaults."""

EARLIER = {
    "train.learning_rate": "1e-4",
    "heal.learning_rate": "1e-4",
    "heal.rounds": "1",
    "heal.networks": "2",
}
"""Defaults that have changed, with their earlier values: names of runs with them stay."""

RUN_IDS = {
    "adabert_glue.toml": "adabert-glue-0cc748da",
    "adabert_mrpc.toml": "adabert-mrpc-a12fa64c",
    "adabert_quickstart.toml": "adabert-quickstart-2447249e",
    "adabert_sst2.toml": "adabert-sst2-be8c3d9b",
    "quickstart.toml": "quickstart-3ba75197",
    "yoco_glue.toml": "yoco-glue-2d49de38",
    "yoco_mrpc.toml": "yoco-mrpc-ba01a238",
    "yoco_paper.toml": "yoco-paper-4c0aaacb",
    "yoco_sst2.toml": "yoco-sst2-16669c9e",
}
STUDY_IDS = {
    "update.toml": "update-534ec6d4",
    "search.toml": "search-70658833",
    "crosstask.toml": "crosstask-aa49ad6a",
}
"""Computed before any setting was renamed; jobs that search got new names with the default searcher,
when healing joined, and when AdaBERT scored candidates. adabert_glue.toml got the paper's search, and
yoco_paper.toml the paper's learning rate without a warm-up: their names are those of these settings."""

NAMES_WITHOUT_CANDIDATES = {
    "adabert_glue.toml": "adabert-glue-0cc748da",
    "adabert_mrpc.toml": "adabert-mrpc-a3c47f55",
    "adabert_quickstart.toml": "adabert-quickstart-3e305b17",
    "adabert_sst2.toml": "adabert-sst2-ea991055",
}
"""The names of these runs before AdaBERT scored candidates."""

NAMES_WITHOUT_HEALING = {
    "yoco_glue.toml": "yoco-glue-2f3491f1",
    "yoco_mrpc.toml": "yoco-mrpc-8058277a",
    "yoco_sst2.toml": "yoco-sst2-cdde5e19",
}
"""The names of these runs before healing joined."""


def earlier_defaults(path: Path) -> list[str]:
    """Return overrides with the earlier defaults of the settings that a job file leaves open."""
    job = tomllib.loads(path.read_text())
    pairs = ((*key.split("."), value) for key, value in EARLIER.items())
    return [
        f"{section}.{key}={value}" for section, key, value in pairs if key not in job.get(section, {})
    ]


@pytest.fixture(autouse=True)
def _no_notes_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renames, "_noted", set())


def with_settings(job: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(job)
    for name, value in settings.items():
        section, key = name.split(".")
        changed.setdefault(section, {})[key] = value
    return changed


@pytest.mark.parametrize(("file", "run_id"), RUN_IDS.items())
def test_runs_keep_their_names(file: str, run_id: str) -> None:
    path = ROOT / "jobs" / file
    assert load_job(path, earlier_defaults(path)).run_id == run_id


@pytest.mark.parametrize(("file", "run_id"), NAMES_WITHOUT_HEALING.items())
def test_a_run_without_healing_has_the_name_that_it_had_before(file: str, run_id: str) -> None:
    path = ROOT / "jobs" / file
    assert load_job(path, [*earlier_defaults(path), "heal.steps=0"]).run_id == run_id


@pytest.mark.parametrize(("file", "run_id"), NAMES_WITHOUT_CANDIDATES.items())
def test_a_search_in_the_paper_s_form_has_the_name_that_it_had_before(file: str, run_id: str) -> None:
    path = ROOT / "jobs" / file
    overrides = [*earlier_defaults(path), "adabert.alpha_updates=0", "adabert.candidates=0"]
    assert load_job(path, overrides).run_id == run_id


@pytest.mark.parametrize(("file", "study_id"), STUDY_IDS.items())
def test_studies_keep_their_names(file: str, study_id: str) -> None:
    path = ROOT / "jobs" / "studies" / file
    assert load_study_file(path, earlier_defaults(path)).id == study_id


def test_parts_that_runs_share_keep_their_keys() -> None:
    path = ROOT / "jobs" / "quickstart.toml"
    assert artifact_keys(load_job(path, earlier_defaults(path))) == {
        "distillation_data": "24a6065aeb03a2f1",
        "supernet": "bf593be84983d828",
        "teacher": "ba717022286e5809",
    }


def test_every_renamed_setting_has_a_test_value() -> None:
    assert VALUES.keys() == OLD_NAMES.keys()


@pytest.mark.parametrize(("new", "old"), OLD_NAMES.items())
def test_an_old_name_is_the_same_setting(tiny_job: dict[str, Any], new: str, old: str) -> None:
    tiny_job["run"]["methods"] = ["yoco", "adabert"]
    plain = parse_job(tiny_job)
    with_new = parse_job(with_settings(tiny_job, {new: VALUES[new]}))
    with_old = parse_job(with_settings(tiny_job, {old: VALUES[new]}))

    assert with_new == with_old
    assert with_new.identity() == with_old.identity()
    # Trackers change no result.
    assert (with_new.identity() != plain.identity()) == (new != "run.tracking")


def test_the_user_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "job.toml"
    path.write_text(JOB.format(train="block"))
    assert load_job(path).train.sampler_sync_steps == 5
    load_job(path)
    assert caplog.messages == [
        "Note: 'train.block' is now called 'train.sampler_sync_steps'; the old name still works."
    ]


@pytest.mark.parametrize("in_file", ["block", "sampler_sync_steps"])
@pytest.mark.parametrize("on_command_line", ["block", "sampler_sync_steps"])
def test_an_override_replaces_the_files_value(tmp_path: Path, in_file: str, on_command_line: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(JOB.format(train=in_file))
    assert load_job(path, [f"train.{on_command_line}=2"]).train.sampler_sync_steps == 2


@pytest.mark.parametrize(("new", "old"), OLD_NAMES.items())
def test_both_names_at_once_are_an_error(
    tmp_path: Path, tiny_job: dict[str, Any], new: str, old: str
) -> None:
    both = {new: VALUES[new], old: VALUES[new]}
    with pytest.raises(UserError, match=f"Remove '{old}'"):
        parse_job(with_settings(tiny_job, both))

    path = tmp_path / "job.toml"
    path.write_text(JOB.format(train="sampler_sync_steps"))
    with pytest.raises(UserError, match=f"Remove '{old}'"):
        load_job(path, [f"{old}=1", f"{new}=1"])

    tiny_job["study"] = {"name": "s", "variant": [{"name": "a", "set": both}]}
    with pytest.raises(UserError, match=f"Remove '{old}'"):
        parse_study(tiny_job)


def test_a_study_accepts_old_names(tiny_job: dict[str, Any]) -> None:
    tiny_job["train"]["block"] = 5
    variants = [{"name": "base"}, {"name": "free", "set": {"train": {"pairs": "free"}}}]
    tiny_job["study"] = {"name": "s", "variant": variants, "seeds": [0]}
    base, free = (run.job.train for run in parse_study(tiny_job).runs)

    assert (base.sampler_sync_steps, base.pairing) == (5, "matched")
    assert (free.sampler_sync_steps, free.pairing) == (5, "free")


def test_the_settings_of_an_old_run_are_read_without_a_note(
    tiny_job: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    job = parse_job(tiny_job)
    old = renames.original_names(job.model_dump(mode="json"))
    assert old["train"]["block"] == 10
    assert "sampler_sync_steps" not in old["train"]

    assert parse_stored(old) == job
    assert not caplog.messages
