"""The page of environment variables lists each variable that the code reads or sets."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reference" / "environment.md"

# Keys of os.environ, and text that is the name of a variable of raycomp or of a program that it calls.
FORMS = (
    re.compile(r'os\.(?:environ(?:\.\w+)?|getenv)\s*[\[(]\s*"(\w+)"'),
    re.compile(r'"(\w+)"\s+(?:not )?in os\.environ'),
    re.compile(r'"((?:RAY|RAYCOMP|AWS|HF|WANDB|NNCF|CUDA|OMP|TOKENIZERS|ONEDNN)_[A-Za-z0-9_]+)"'),
)


def used_variables(source: str) -> set[str]:
    """Return the variables that a module names."""
    return {name for form in FORMS for name in form.findall(source)}


def test_the_page_lists_each_variable() -> None:
    listed = set(re.findall(r"[A-Z][A-Za-z0-9_]+", PAGE.read_text(encoding="utf-8")))
    paths = sorted((ROOT / "raycomp").rglob("*.py"))
    missing = [
        f"{path.name}: {name}"
        for path in paths
        for name in sorted(used_variables(path.read_text(encoding="utf-8")) - listed)
    ]
    assert not missing


def test_variables_are_found_in_each_form() -> None:
    source = (
        'os.environ["A"] = os.environ.get(\n "B")\nif "C" in os.environ: os.getenv("D")\nx = {"RAY_E": 1}'
    )
    assert used_variables(source) == {"A", "B", "C", "D", "RAY_E"}
