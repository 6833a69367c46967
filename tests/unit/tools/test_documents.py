"""What docs/equations.md names is where it says."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "equations.md").read_text()


def test_functions_stand_in_their_files() -> None:
    named = re.findall(
        r"`((?:methods|methods/adabert|methods/yoco|data|encoder|training|search)/\w+\.py): (\w+)", TEXT
    )
    functions = [(path, name) for path, name in named if not path.split("/")[-1].startswith("test_")]
    assert len(functions) > 20
    for path, name in functions:
        source = (ROOT / "raycomp" / path).read_text()
        assert re.search(rf"\b(def|class) {name}\b", source), f"{path} has no {name}"


def test_tests_stand_in_the_suite() -> None:
    source = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    names = re.findall(r"\b(test_\w+?)(?:_\.\.\.|`)", TEXT)
    assert len(names) > 30
    for name in names:
        assert f"def {name}" in source, name
