"""The cost table that `raycomp run` and the report print."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycomp.api.tables import read_rows
from raycomp.cli.run_output import print_run
from raycomp.report import write_report
from raycomp.report.cost_table import COST_MEANINGS
from raycomp.storage.rows import CostRow
from raycomp.storage.tables import write_rows
from tests.unit.report.run_factory import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with the costs of its teacher and of one method."""
    folder = write_run(tmp_path)
    training = CostRow(folder.name, "yoco", "training", "supernet", None, 90, 5e6, 8e12, 4.0, 60.0)
    healing = CostRow(folder.name, "yoco", "healing", "healing", None, 30, 1e6, 3e12, 1.5, 20.0)
    scoring = CostRow(folder.name, "yoco", "scoring", "search", None, 40, 2e6, 1e12, 0.5, 10.0)
    rows = [training, healing.part_of(0.5, "half"), healing.part_of(0.5, "flops"), scoring]
    write_rows(folder, "costs", [row.to_row() for row in rows], "yoco")
    teacher = CostRow(folder.name, "teacher", "training", "teacher", None, 100, 1e6, 6e12, 3.0, 40.0)
    write_rows(folder, "costs", [teacher.to_row()], "teacher")
    return folder


def test_the_terminal_prints_the_sums(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_run(run, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    header = next(i for i, line in enumerate(lines) if line.split() == list(COST_MEANINGS))
    cells = {line.split()[0]: line.split()[1:] for line in lines[header + 1 : header + 3]}
    assert cells["yoco"] == ["4.00", "1.50", "0.50", "6.00", "0.75", "8M", "90"]
    # The columns of budgets and scoring do not apply to the teacher.
    assert cells["teacher"] == ["3.00", "3.00", "1M", "40"]


def test_the_page_has_the_table_and_its_meanings(run: Path, tmp_path: Path) -> None:
    page = write_report(run, tmp_path / "report.html").read_text()
    assert "Cost. A pass is the FLOPs" in page
    assert "<dt>marginal</dt>" in page
    assert '<td class="figure">0.75</td>' in page


def test_a_run_of_an_earlier_version_prints_no_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path)
    print_run(folder, as_json=False)
    assert "Cost." not in capsys.readouterr().out
    assert "Cost." not in write_report(folder, tmp_path / "report.html").read_text()


def test_a_query_reads_the_rows(run: Path) -> None:
    rows = read_rows(run, "costs", "method == 'yoco' and work == 'healing'")
    assert rows["budget"].tolist() == ["half", "flops"]
    assert rows["passes"].sum() == pytest.approx(1.5)
