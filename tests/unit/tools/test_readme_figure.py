"""The picture of README.md shows the figures of a run, and the same run gives the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycomp.errors import UserError
from raycomp.report import load_tables
from tests.unit.report.run_factory import begin_run, write_run
from tools.readme_figure import collect_points, write_figures


def test_a_point_for_the_teacher_and_for_each_architecture(tmp_path: Path) -> None:
    points = collect_points(load_tables(write_run(tmp_path)), "latency_ms")
    assert points["cost"].is_monotonic_increasing
    assert points["label"].tolist() == ["CNN", "half", "flops", "teacher"]
    half = points.set_index("label").loc["half"]
    assert half["score"] == pytest.approx(0.83)
    assert half["low"] < half["score"] < half["high"]


def test_a_light_and_a_dark_file_with_searchable_text(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    light, dark = write_figures(run, tmp_path / "images")
    assert (light.name, dark.name) == ("pareto-light.svg", "pareto-dark.svg")
    text = light.read_text()
    for label in ("half", "13.6M params", "CNN (AdaBERT)", "teacher", "validation accuracy", "(ms)"):
        assert label in text, label
    assert "95% intervals over 1,000 validation examples" in text
    assert text != dark.read_text()
    again, _ = write_figures(run, tmp_path / "again")
    assert again.read_text() == text


@pytest.mark.parametrize("cost", ["params", "latency_ms"])
def test_a_metric_without_saved_outputs_has_no_bars(tmp_path: Path, cost: str) -> None:
    run = write_run(tmp_path, metric="matthews")
    assert collect_points(load_tables(run), cost)["low"].isna().all()
    assert "validation matthews" in write_figures(run, tmp_path, cost)[0].read_text()


def test_a_run_without_deployed_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no deployed models yet"):
        write_figures(begin_run(tmp_path), tmp_path)
