from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path

from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.method_layout import DeviceLayout, TrialLayout
from raycomp.storage.study_layout import StudyLayout, find_runs, find_studies

RUN = Path("runs/r-0123abcd")


def properties(layout: RunLayout | TrialLayout | StudyLayout | DeviceLayout) -> dict[str, Path]:
    """Return the paths that a layout names; those of a part of it are the part's own."""
    members = inspect.getmembers(type(layout), lambda member: isinstance(member, property))
    values = {name: getattr(layout, name) for name, _ in members}
    return {name: value for name, value in values.items() if isinstance(value, Path)}


def test_every_path_is_in_its_directory_and_has_one_name() -> None:
    for layout in (RunLayout(RUN), TrialLayout(RUN), StudyLayout(RUN), DeviceLayout(RUN)):
        paths = properties(layout)
        outside = {name for name, path in paths.items() if not path.is_relative_to(RUN)}
        assert outside <= {"token_cache"}
        assert not [path for path, count in Counter(paths.values()).items() if count > 1]


def test_places_of_older_runs_stay() -> None:
    layout = RunLayout(RUN)
    assert layout.teacher_score == RUN / "teacher" / "score.json"
    assert layout.summary("yoco") == RUN / "deployed.json"
    assert layout.summary("adabert") == RUN / "adabert" / "deployed.json"
    assert layout.method("yoco").sampler == RUN / "supernet" / "sampler.json"
    assert layout.method("yoco").search_outcome("half", "sng", 3) == RUN / "search" / "half.sng.3.json"
    assert layout.trial("k1").outcome == RUN / "adabert" / "k1" / "outcome.json"
    assert layout.predictions("labels", "validation") == RUN / "predictions" / "labels.validation.npy"
    assert layout.table("steps") == RUN / "tables" / "steps"
    assert layout.export("yoco", "half") == RUN / "exports" / "yoco-half"


def test_runs_and_studies_are_found(tmp_path: Path) -> None:
    write_json(RunLayout(tmp_path / "b").job, {})
    write_json(RunLayout(tmp_path / "a").job, {})
    write_json(StudyLayout(tmp_path / "s").study, {})
    (tmp_path / "empty").mkdir()

    assert [path.name for path in find_runs(tmp_path)] == ["a", "b"]
    assert [path.name for path in find_studies(tmp_path)] == ["s"]
