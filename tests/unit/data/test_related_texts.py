"""Groups of related texts, the division into splits that keeps them together, and its revisions."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raycomp.config.task import TaskSettings
from raycomp.data import splitting
from raycomp.data.related_texts import contained_share, contained_shares, group_related
from raycomp.data.splitting import MAX_SELECTION, carve_equal, carve_related, halve
from raycomp.data.tasks import load_task
from raycomp.errors import UserError
from tests.conftest import make_sentences

GLUE_DATA = os.environ.get("RAYCOMP_GLUE", "")  # a folder with mrpc/ and sst2/
MANY = 1000


def frame(*texts: str | tuple[str, str]) -> pd.DataFrame:
    pairs = [text if isinstance(text, tuple) else (text, "") for text in texts]
    return pd.DataFrame(pairs, columns=["a", "b"])


LONG = "the plot of this film is so thin that even its cast seems to look for a way out of every scene"


@pytest.mark.parametrize(
    ("first", "second", "related"),
    [
        ("A fine film.", "a  FINE film", True),
        ("a fine film", "a dull film", False),  # fewer than four common words
        ("a truly fine film indeed", "a truly dull film indeed", True),
        ("a truly fine film indeed", "film a truly fine indeed", True),
        ("a truly fine film indeed", "a truly fine and warm film indeed", False),
        ("so thin that even its cast", LONG, True),
        ("so thin that even its plot", LONG, False),
        ("thin so that its even cast", LONG, False),
        (LONG, LONG.replace("thin", "weak"), True),
        ("!!!", "???", False),
        ("", "", True),
        ("这部电影非常好看", "这部电影非常好看。", True),
        ("这部电影非常好看", "那个故事实在无聊", False),
        (("who is it", "it is a cat"), ("it is a cat", "who is it"), True),
        (("who came to the door", LONG), ("where did the cat go then", LONG), True),
        (("who came to the door", "a cat was there"), ("who came to the door", "no one knows it"), False),
        (("a b", "c"), ("a", "b c"), False),
    ],
)
def test_related_texts(first: str, second: str, related: bool) -> None:
    groups = group_related(frame(first, second, "this row is about nothing else"), MANY)
    assert (groups[0] == groups[1]) == related
    assert groups[2] not in groups[:2]


def test_relations_link_rows_over_others() -> None:
    parts = ["so thin that even its cast", LONG, "a way out of every scene"]
    assert len(set(group_related(frame(*parts), MANY))) == 1


def test_frequent_phrases_do_not_link_rows() -> None:
    """Each of 80 rows begins with the same four words, which are also a row."""
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(4000)]
    texts = [
        " ".join(["one", "of", "the", "best", *rng.choice(words, 8, replace=False)]) for _ in range(80)
    ]
    groups = group_related(frame("one of the best", *texts), MANY)
    assert len(set(groups)) == 81


def test_a_large_group_is_divided_and_equal_texts_stay_together() -> None:
    """Rows that follow a template are all one word apart."""
    texts = [f"please book a table for {name} tonight" for name in "abcdefghijklmnopqrst"]
    rows = frame(*texts, texts[0].upper())
    assert len(set(group_related(rows, MANY))) == 1
    groups = group_related(rows, 10)
    assert len(set(groups)) == 20
    assert groups[0] == groups[-1]


def test_the_share_of_contained_rows_counts_long_rows_only() -> None:
    rows = frame("so thin that even its cast", "so thin that even its plot", "a way out", LONG + " now")
    assert contained_share(rows, frame(LONG)) == pytest.approx(1 / 3)
    assert contained_share(rows, frame("a way out")) == 0
    assert contained_share(frame("too short"), frame("too short")) == 0
    pairs = frame(("so thin that even its cast", "a way out"), ("so thin that even its cast", "no way"))
    assert contained_share(pairs, frame((LONG, "x"))) == pytest.approx(1 / 2)
    both = contained_shares([rows, frame("too short"), rows[:1]], frame(LONG))
    assert both == pytest.approx([1 / 3, 0, 1])


def treebank(sentences: int, seed: int = 0) -> pd.DataFrame:
    """Return sentences and parts of them, as in SST-2, with the class of their sentence."""
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(3000)]
    rows = []
    for sentence in range(sentences):
        text = list(rng.choice(words, 20))
        for length in (20, 15, 10, 6, 3):
            start = int(rng.integers(20 - length + 1))
            rows.append((" ".join(text[start : start + length]), "", sentence % 2))
    return pd.DataFrame(rows, columns=["a", "b", "y"])


def test_no_selection_row_is_part_of_a_training_row() -> None:
    """Neither the other way around; the old rule, which keeps only equal texts together, leaks."""
    rows = treebank(200)
    train, selection = carve_related(rows, 100, (0, 0), "selection", is_classification=True)
    assert len(train) + len(selection) == len(rows)
    assert len(selection) == 100
    assert selection["y"].mean() == pytest.approx(0.5, abs=0.02)
    assert contained_share(selection, train) == 0
    assert contained_share(train, selection) == 0

    old_train, old_selection = carve_equal(rows, 100, 0, "selection", is_classification=True)
    assert contained_share(old_selection, old_train) > 0.5


def test_the_draw_depends_on_the_seed_and_on_nothing_else() -> None:
    rows = treebank(60)
    draws = [
        carve_related(rows, 0.1, seed, "selection", is_classification=True)[1]["a"].tolist()
        for seed in ((0, 0), (0, 0), (1, 0))
    ]
    assert draws[0] == draws[1] != draws[2]


def test_every_class_keeps_its_share() -> None:
    """Also where there are many classes, and texts of several classes are related."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 5000, 8)) for _ in range(600)]
    rows = frame(*texts).assign(y=np.arange(600) % 30)
    rows.loc[1, "a"] = rows.loc[0, "a"]
    _, selection = carve_related(rows, 90, (0, 0), "selection", is_classification=True)
    assert np.bincount(selection["y"], minlength=30).tolist() == [3] * 30


def test_a_share_is_capped_and_a_number_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_SELECTION == 20_000
    monkeypatch.setattr(splitting, "MAX_SELECTION", 50)
    rows = treebank(200)
    by_share = carve_related(rows, 0.1, (0, 0), "selection", is_classification=True)[1]
    assert len(by_share) == 50
    by_number = carve_related(rows, 80, (0, 0), "selection", is_classification=True)[1]
    assert len(by_number) == 80


def test_rows_that_are_all_equal_cannot_be_divided() -> None:
    rows = frame(*["the same text in every row"] * 40).assign(y=np.arange(40) % 2)
    with pytest.raises(UserError, match="group of related texts"):
        carve_related(rows, 4, (0, 0), "selection", is_classification=True)


# The division of a task.


def own(folder: Path, rows: int = 300, **changes: object) -> TaskSettings:
    path = folder / "train.csv"
    make_sentences(rows, 0).to_csv(path, index=False)
    return TaskSettings(**{"train": str(path), "text": ["text"], "label": "label", **changes})  # type: ignore[arg-type]


def test_validation_rows_without_a_validation_file_do_not_depend_on_the_seed(tmp_path: Path) -> None:
    settings = own(tmp_path)
    zero, one = load_task(settings, 0), load_task(settings, 1)
    assert zero.validation[0].text_a == one.validation[0].text_a
    assert zero.selection.text_a != one.selection.text_a
    # The rule of older runs.
    old = [load_task(settings, seed, revision=1).validation[0].text_a for seed in (0, 1)]
    assert old[0] != old[1]


def digest(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def test_runs_of_revision_1_keep_their_rows(tmp_path: Path) -> None:
    """Computed before revision 2 existed: a run that was started then must resume with the same rows."""
    task = load_task(own(tmp_path, selection=0.2, limit=120), 3, revision=1)
    assert (len(task.train), len(task.selection)) == (96, 24)
    assert digest(task.train.text_a) == "1b0675c5b2fc"
    assert digest(task.selection.text_a) == "2c6016debb83"
    assert digest(task.validation[0].text_a) == "ca257c4156dd"


def test_two_halves_are_the_validation_split(tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.csv"
    make_sentences(200, 1).drop_duplicates("text").to_csv(held_out, index=False)
    whole, a, b = (
        load_task(own(tmp_path, validation=str(held_out), validation_half=half), 0).validation[0]
        for half in (None, "a", "b")
    )
    assert sorted(a.text_a + b.text_a) == sorted(whole.text_a)
    assert not set(a.text_a) & set(b.text_a)
    assert 0.35 < len(a) / len(whole) < 0.65


def test_the_half_of_a_text_never_changes() -> None:
    """The halves of published figures are fixed."""
    rows = frame("a fine film", "a dull film", ("who is it", "a cat"), "", "naïve text")
    halves = ["a" if text in set(halve(rows, "v", "a")["a"]) else "b" for text in rows["a"]]
    expected = [
        "ab"[hashlib.sha256(f"{a}\x00{b}".encode()).digest()[0] & 1]
        for a, b in zip(rows["a"], rows["b"], strict=True)
    ]
    assert halves == expected
    assert halves[:3] == ["a", "a", "b"]
    with pytest.raises(UserError, match="leaves no rows"):
        halve(rows[:1], "validation", "b" if halves[0] == "a" else "a")


@pytest.mark.skipif(not GLUE_DATA, reason="needs the GLUE folder")
def test_selection_rows_of_sst2_are_not_parts_of_training_rows() -> None:
    settings = TaskSettings(name="glue/sst2", folder=f"{GLUE_DATA}/sst2", selection=2000)
    shares = []
    for revision in (1, 2):
        task = load_task(settings, 0, revision)
        assert len(task.selection) == 2000
        shares.append(contained_share(*(frame(*split.text_a) for split in (task.selection, task.train))))
    assert shares[0] > 0.8
    assert shares[1] < 0.02
