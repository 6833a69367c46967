"""The prose check finds what it is meant to find; `make prose` runs it on this repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import prose_check
from tools.prose_check import COMMENTS, DOCUMENTS, MESSAGES, count, find, prose_of_markdown

BAD = [
    ("The run returns what it found.", "a clause in place of a noun"),
    ("The file is no table.", "'is no', 'has no', 'holds no'"),
    ("The table lies in the folder.", "an old verb"),
    ("The run goes on from the checkpoint.", "'goes on'"),
    ("The budget alone is written anew.", "an old adverb"),
    ("A torn file is named.", "an old adjective"),
    ("Wait, for the node is busy.", "', for' or ', so that'"),
    ("The classroom has the logits.", "a metaphor"),
    ("It runs on a processor.", "a term that the glossary replaces"),
]

GOOD = """The run resumes from the last checkpoint.
If a worker fails, training continues with fewer workers.
raycomp no longer reads pickles, for example those of older checkpoints.
Use a smaller budget when the search has no more architectures to ask for.
"""


@pytest.mark.parametrize(("sentence", "habit"), BAD)
def test_a_bad_sentence_is_found(sentence: str, habit: str) -> None:
    assert habit in [occurrence.habit for occurrence in find(sentence)]


def test_every_habit_has_a_bad_sentence() -> None:
    assert {habit for _, habit in BAD} == set(prose_check.HABITS)


def test_plain_sentences_pass() -> None:
    assert find(GOOD, sentences=True) == []


def test_a_long_sentence_counts_in_documents() -> None:
    long = "The run " + "reads a file and " * 12 + "stops."
    assert [occurrence.habit for occurrence in find(long, sentences=True)] == ["a long sentence"]
    assert find(long) == []


def test_code_tables_and_generated_parts_of_a_document_are_not_prose() -> None:
    text = (
        "Good.\n```\ngoes on\n```\n| torn | anew |\n`lies`\n[plain words](a/torn/path.md)\n"
        "<!-- study -->\nwhatever\n<!-- end of study -->\n"
    )
    assert find(prose_of_markdown(text)) == []
    assert "plain words" in prose_of_markdown(text)


def test_the_three_kinds_are_told_apart(tmp_path: Path) -> None:
    package = tmp_path / "raycomp"
    package.mkdir()
    (tmp_path / "page.md").write_text("It lies here.\n")
    (package / "a.py").write_text('"""It stands here."""\n\nx = "it goes on"  # torn\ny = "anew"\n')
    assert [o.context for o in count(DOCUMENTS, tmp_path).occurrences] == ["It lies here."]
    assert [o.habit for o in count(COMMENTS, tmp_path).occurrences] == ["an old verb", "an old adjective"]
    assert [o.context for o in count(MESSAGES, tmp_path).occurrences] == ["it goes on"]


def test_a_text_over_its_limit_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("The run goes on. " + "A plain word. " * 20)
    monkeypatch.setattr(prose_check, "LIMITS", {DOCUMENTS: 5.0})
    assert prose_check.main([], tmp_path) == 1
    assert "over the limit" in capsys.readouterr().out
    page.write_text("The run resumes. " + "A plain word. " * 20)
    assert prose_check.main([], tmp_path) == 0
