"""Functions and tests that documents name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "equations.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
LOADERS = (ROOT / "docs" / "how-to" / "formats.md").read_text().partition("## Where an export loads")[2]


def test_functions_stand_in_their_files() -> None:
    packages = "methods|methods/adabert|methods/yoco|data|deployment|encoder|training|search"
    named = re.findall(rf"`((?:{packages})/\w+\.py): (\w+)", TEXT)
    functions = [(path, name) for path, name in named if not path.split("/")[-1].startswith("test_")]
    assert len(functions) > 20
    for path, name in functions:
        source = (ROOT / "raycomp" / path).read_text()
        assert re.search(rf"\b(def|class) {name}\b", source), f"{path} has no {name}"


@pytest.mark.parametrize(
    ("text", "least"),
    [(TEXT, 30), (LOADERS, 12), (SECURITY, 30)],
    ids=["equations", "loaders", "security"],
)
def test_tests_stand_in_the_suite(text: str, least: int) -> None:
    source = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    names = re.findall(r"\b(test_\w+?)(?:_\.\.\.|`)", text)
    assert len(names) > least
    for name in names:
        assert f"def {name}" in source, name


def test_every_loader_has_a_test_or_says_that_it_lacks_one() -> None:
    rows = [line for line in LOADERS.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 12
    for row in rows:
        *_, code, plain, cnn, test = [cell.strip() for cell in row.strip("|").split("|")]
        verdicts = {code, plain, cnn}
        assert verdicts <= {"yes", "layout only", "not tested"}, row
        assert (test == "-") == (verdicts == {"not tested"}), row
