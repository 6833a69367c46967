"""The glossary and the page of the tables name every column of every table, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

from raycomp.storage.schemas import SCHEMAS

DOCS = Path(__file__).parents[3] / "docs"
TYPES = {
    pa.string(): "text",
    pa.float64(): "number",
    pa.int64(): "whole number",
    pa.bool_(): "true/false",
}


def rows(text: str) -> list[list[str]]:
    """Return the cells of every table row of a page, without headings and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if not set(row[0]) <= set("-:|") and row[0] not in ("term", "column")]


def test_the_glossary_names_every_column() -> None:
    entries = rows((DOCS / "glossary.md").read_text())
    named = {name for row in entries for name in re.findall(r"`([a-z][a-z0-9_]*)`", row[-1])}
    columns = {column for schema in SCHEMAS.values() for column in schema.names}
    assert columns - named == set()
    assert named - columns - set(SCHEMAS) == set()


def test_a_term_is_defined_once() -> None:
    terms = [row[0] for row in rows((DOCS / "glossary.md").read_text())]
    assert len(terms) > 80
    assert len(terms) == len(set(terms))


def test_the_page_of_the_tables_is_the_schemas() -> None:
    text = (DOCS / "reference" / "tables.md").read_text()
    parts = re.split(r"^## `(\w+)`$", text, flags=re.MULTILINE)
    pages = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(pages) == list(SCHEMAS)
    for name, schema in SCHEMAS.items():
        found = [(row[0].strip("`"), row[1]) for row in rows(pages[name])]
        assert found == [(field.name, TYPES.get(field.type, "time (UTC)")) for field in schema], name
