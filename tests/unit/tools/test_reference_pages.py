"""The generated pages are current, and the pages written by hand name what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raycomp.runtime.cluster.connect import LOCAL_SETTINGS, RAY_SETTINGS
from raycomp.storage.layout import RunLayout
from raycomp.storage.study_layout import StudyLayout
from tools import cli_reference, import_order

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "docs" / "reference"


def test_a_changed_help_text_is_found(tmp_path: Path) -> None:
    page = tmp_path / "cli.md"
    assert cli_reference.main([str(page)]) == 0
    assert cli_reference.main(["--check", str(page)]) == 0
    page.write_text(page.read_text().replace("resumes", "restarts"))
    assert cli_reference.main(["--check", str(page)]) == 1


def test_the_command_line_page_has_every_option() -> None:
    text = cli_reference.render()
    for word in ("## `raycomp plan`", "`--set KEY=VALUE`", "`JOB` | required", "raycomp export runs/"):
        assert word in text
    assert "run-request" not in text


def test_the_import_order_is_the_contracts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert import_order.main(["--check"]) == 0
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert re.search(r"  cli.* -> .*errors$", import_order.render(pyproject), re.MULTILINE)
    page = tmp_path / "page.md"
    page.write_text("<!-- import order -->\nold\n<!-- end of import order -->\n")
    monkeypatch.setattr(import_order, "PAGE", page)
    assert import_order.main(["--check"]) == 1
    assert import_order.main([]) == 0
    assert import_order.main(["--check"]) == 0


def test_the_page_of_variables_names_every_variable() -> None:
    text = (REFERENCE / "environment.md").read_text()
    sources = [*(ROOT / "raycomp").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    sources += [ROOT / "cluster" / "slurm.sh", *(ROOT / "tests").rglob("conftest.py"), ROOT / "Makefile"]
    code = "\n".join(path.read_text() for path in sources)
    for name in sorted(set(re.findall(r"\bRAYCOMP_[A-Z][A-Z0-9_]*", code))):
        assert f"`{name}`" in text, name
    for name, value in {**RAY_SETTINGS, **LOCAL_SETTINGS}.items():
        assert f"| `{name}` | `{value}` |" in text, name


def test_the_page_of_the_run_directory_names_every_path() -> None:
    text = (REFERENCE / "run-directory.md").read_text()
    layout = RunLayout(Path("RUN"))
    values = [getattr(layout, name) for name in dir(RunLayout) if not name.startswith("_")]
    paths = [value for value in values if isinstance(value, Path)]
    assert len(paths) > 20
    for path in paths:
        if path.is_relative_to("RUN") and path != Path("RUN"):
            top = path.relative_to("RUN").parts[0]
            assert f"`{top}" in text, path
    for name in ("study", "runs", "report"):
        assert getattr(StudyLayout(Path("RUN")), name).name in text


def test_the_page_about_the_report_names_its_sections_in_order() -> None:
    template = (ROOT / "raycomp" / "report" / "templates" / "report.html.j2").read_text()
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", template)
    rows = re.findall(
        r"^\| ([^|]+) \|", (ROOT / "docs" / "start" / "report.md").read_text(), re.MULTILINE
    )
    assert headings == rows[1:]
