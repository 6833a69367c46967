"""Data files as programs and people write them: read as they are written, or refused with the row."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from raycomp.config.task import TaskSettings
from raycomp.data import files
from raycomp.data.files import read_column_names, read_file
from raycomp.data.tasks import Task, load_task
from raycomp.errors import UserError

WORDS = [
    "warm",
    "clever",
    "bright",
    "tender",
    "dull",
    "clumsy",
    "cold",
    "tired",
    "story",
    "baker",
    "chapter",
    "song",
]
LABELS = ("neg", "pos")


def text(number: int) -> str:
    words = random.Random(number).sample(WORDS, 5)
    return f"{' '.join(words)} {number}"


def rows(count: int = 60) -> list[tuple[str, str]]:
    return [(text(number), LABELS[number % 2]) for number in range(count)]


def csv_lines(count: int = 60) -> list[str]:
    return [f"{words},{label}" for words, label in rows(count)]


def write_csv(path: Path, lines: list[str], header: str = "text,label") -> Path:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def load(path: Path, **changes: Any) -> Task:
    return load_task(
        TaskSettings(**{"train": str(path), "text": ["text"], "label": "label", **changes}), 0
    )


def all_texts(task: Task) -> list[str]:
    splits = (task.train, task.selection, *task.validation)
    return sorted(words for split in splits for words in split.text_a)


def num_rows(task: Task) -> int:
    return len(all_texts(task))


# Rows with quotes that most readers merge, and the line that the message must name.
MERGED = {
    "an unclosed quote and a later quote with text": (
        {5: '"so warm and tender 5,pos', 9: 'a tired story" 9,neg'}, "line 7 (row 5)"
    ),
    "an unclosed quote and a later quote at the end of a text": (
        {5: '"so warm and tender 5,pos', 9: 'a tired story",neg'}, "line 7 (row 5)"
    ),
    "an unclosed quote in the next row": (
        {5: '"so warm and tender 5,pos', 6: 'a tired story",neg'}, "line 7 (row 5)"
    ),
    "an unclosed quote in the last row": ({59: '"so warm,pos'}, "line 61 (row 59)"),
    "one unclosed quote": ({5: '"so warm and tender 5,pos'}, "line 7 (row 5)"),
    "a quoted word at the beginning": ({5: '"warm" and tender 5,pos'}, "line 7 (row 5)"),
    "a quote in the label": ({5: 'warm 5,"pos', 8: 'cold 8,neg"'}, "line 7 (row 5)"),
    "two pairs of stray quotes": (
        {5: '"so warm,pos', 7: 'tired",neg', 20: '"so cold,neg', 22: 'tender",pos'}, "line 7 (row 5)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MERGED)
def test_quotes_that_merge_rows_are_refused_with_the_row(name: str, tmp_path: Path) -> None:
    changes, place = MERGED[name]
    lines = csv_lines()
    for row, line in changes.items():
        lines[row] = line
    with pytest.raises(UserError) as caught:
        load(write_csv(tmp_path / "t.csv", lines))
    assert place in str(caught.value)
    assert "quote" in str(caught.value)
    assert not str(caught.value).endswith("..")


def test_swallowed_rows_of_a_regression_are_found_too(tmp_path: Path) -> None:
    lines = [f"{words},{1000 + 7 * number}" for number, (words, _) in enumerate(rows())]
    lines[5] = f'"{lines[5]}'
    lines[9] = 'a tired story",1234'
    with pytest.raises(UserError, match=r"line 7 \(row 5\)"):
        load(write_csv(tmp_path / "t.csv", lines), kind="regression")


def test_texts_with_line_breaks_and_commas_are_read_and_counted(tmp_path: Path) -> None:
    lines = csv_lines()
    lines[5] = '"so warm,\nand ""tender"", pos 5\r\nindeed, neg",pos'
    task = load(write_csv(tmp_path / "t.csv", lines))
    assert num_rows(task) == 60
    assert 'so warm,\nand "tender", pos 5\r\nindeed, neg' in all_texts(task)
    assert any("1 of 60 rows have a line break" in note and "row 5" in note for note in task.notes)


SPARK = {
    'she called it \\"superb\\" twice': 'she called it "superb" twice',
    'she said \\"well, no\\" twice': 'she said "well, no" twice',
    '\\"superb\\"': '"superb"',
    'ends with a quote \\"': 'ends with a quote "',
    'a path C:\\\\': "a path C:\\",
    'a lone \\ backslash and \\"superb\\"': 'a lone \\ backslash and "superb"',
    'three \\\\\\"': 'three \\"',
}  # fmt: skip


@pytest.mark.parametrize("written", SPARK)
def test_quotes_that_spark_escapes_are_read(written: str, tmp_path: Path) -> None:
    lines = csv_lines()
    lines[7] = f'"{written}",pos'
    lines[30] = '"another \\"word\\" here",neg'
    task = load(write_csv(tmp_path / "t.csv", lines))
    assert num_rows(task) == 60
    assert SPARK[written] in all_texts(task)
    assert any("Spark" in note for note in task.notes)


def test_a_backslash_before_a_closing_quote_is_a_backslash(tmp_path: Path) -> None:
    lines = csv_lines()
    lines[7] = '"in C:\\",pos'
    task = load(write_csv(tmp_path / "t.csv", lines))
    assert "in C:\\" in all_texts(task)
    assert not any("Spark" in note for note in task.notes)


LONG_ROWS = {
    "each row": ([f"so, {line}" for line in csv_lines()], "line 2 (row 0) has 3 fields"),
    "the first row": (["so, warm 0,pos", *csv_lines()[1:]], "line 2 (row 0) has 3 fields"),
    "the first row with a number": (["3, warm 0,pos", *csv_lines()[1:]], "line 2 (row 0) has 3 fields"),
    "a later row": ([*csv_lines(), "so, warm 60,pos"], "line 62 (row 60) has 3 fields"),
    "one with two more": ([*csv_lines(), "so, warm, 60,pos"], "line 62 (row 60) has 4 fields"),
    "a number that occurs twice": (
        [f"{number // 2},{line}" for number, line in enumerate(csv_lines())], "line 3 (row 1) has 3"
    ),
    "row names that end": (
        [f"{number},{line}" for number, line in enumerate(csv_lines())][:30] + csv_lines()[30:],
        "line 2 (row 0) has 3 fields",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG_ROWS)
def test_rows_with_more_fields_than_the_header_are_refused(name: str, tmp_path: Path) -> None:
    lines, words = LONG_ROWS[name]
    with pytest.raises(UserError) as caught:
        load(write_csv(tmp_path / "t.csv", lines))
    assert words in str(caught.value)
    tabs = [line.replace(",", "\t") for line in lines]
    path = write_csv(tmp_path / "t.tsv", tabs, "text\tlabel")
    with pytest.raises(UserError, match="fields"):
        load(path)


def test_row_names_of_r_are_left_out_with_a_note(tmp_path: Path) -> None:
    lines = [f"{number + 1},{line}" for number, line in enumerate(csv_lines())]
    random.Random(0).shuffle(lines)
    task = load(write_csv(tmp_path / "t.csv", lines))
    assert all_texts(task) == sorted(words for words, _ in rows())
    assert any("row names" in note for note in task.notes)


def test_a_delimiter_at_the_end_of_each_line_adds_nothing(tmp_path: Path) -> None:
    task = load(write_csv(tmp_path / "t.csv", [f"{line},," for line in csv_lines()]))
    assert all_texts(task) == sorted(words for words, _ in rows())


def test_text_is_read_as_it_is_written(tmp_path: Path) -> None:
    written = ["007", "1.50", "1e5", "true", "NA", "null", "1_000", "  two blanks  ", "-0", "+1"]
    lines = [f"{words},{LABELS[i % 2]}" for i, words in enumerate(written)]
    task = load(write_csv(tmp_path / "t.csv", [*lines, *csv_lines()]))
    assert set(written) <= set(all_texts(task))
    records = [{"text": words, "label": LABELS[i % 2]} for i, words in enumerate(written)]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in [*records, *records]))
    assert set(written) <= set(all_texts(load(path)))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_files_with_bom_gzip_and_other_line_ends(
    ending: str, encoding: str, is_packed: bool, line_end: str, tmp_path: Path
) -> None:
    if ending == "jsonl":
        lines = [json.dumps({"text": words, "label": label}) for words, label in rows()]
    else:
        mark = {"csv": ",", "tsv": "\t"}[ending]
        lines = [mark.join(row) for row in [("text", "label"), *rows()]]
    data = (line_end.join(lines) + line_end).encode(encoding)
    path = tmp_path / f"t.{ending}"
    if is_packed:
        path = tmp_path / f"t.{ending}.gz"
        data = gzip.compress(data)
    path.write_bytes(data)
    task = load(path)
    assert task.label_names == LABELS
    assert all_texts(task) == sorted(words for words, _ in rows())
    assert set(read_column_names(path)) == {"text", "label"}


def test_numbers_of_any_size_in_json_lines(tmp_path: Path) -> None:
    lines = [
        f'{{"id": {10**20 + i}, "long": 1{"0" * 6000}, "text": "{words}", "label": {i % 2}}}'
        for i, (words, _) in enumerate(rows())
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(lines))
    task = load(path)
    assert task.label_names == ("0", "1")
    assert num_rows(task) == 60


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'[{"text": "x", "label": "a"}]', "JSON array"),
        (b'{"text": "x", "label": "a"}\n{"text": \n', "line 2 is not a JSON object"),
        (b'{"text": "x", "label": "a"}\n\xff\n', "line 2 is not UTF-8"),
        (b"{\n", "line 1 is not a JSON object"),
    ],
)
def test_json_that_is_not_json_lines(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError, match=words):
        load(path)


def write_parts(folder: Path, ending: str) -> Path:
    """Write a directory as Spark does: parts, an empty part, a mark of success, check sums."""
    folder.mkdir()
    frame = pd.DataFrame(rows(), columns=["text", "label"])
    for number, part in enumerate([frame[:0], frame[:25], frame[25:]]):
        path = folder / f"part-{number:05d}-c000.{ending}"
        if ending == "parquet":
            part.to_parquet(path)
        elif ending == "json":
            part.to_json(path, orient="records", lines=True)
        else:
            part.to_csv(path, index=False, sep="," if ending.startswith("csv") else "\t")
        (folder / f".{path.name}.crc").write_bytes(b"crc")
    (folder / "_SUCCESS").write_bytes(b"")
    return folder


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "csv.gz", "json"])
def test_a_directory_of_part_files(ending: str, tmp_path: Path) -> None:
    folder = write_parts(tmp_path / f"t.{ending.removesuffix('.gz')}", ending)
    task = load(folder)
    assert all_texts(task) == sorted(words for words, _ in rows())
    assert set(read_column_names(folder)) == {"text", "label"}


def test_directories_that_are_not_data(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "t.parquet", "parquet")
    (folder / "day=1").mkdir()
    with pytest.raises(UserError, match="subdirectory day=1"):
        load(folder)
    (tmp_path / "empty.parquet").mkdir()
    with pytest.raises(UserError, match="lacks data files"):
        load(tmp_path / "empty.parquet")
    with pytest.raises(UserError, match="is a directory"):
        load(tmp_path)


def test_a_small_file_that_unpacks_to_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FREE_UNPACKED_BYTES", 2**20)
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n" + b"x,a\n" * 2**19))
    with pytest.raises(UserError, match="unpacks to more than"):
        load(path)
    path.write_bytes(gzip.compress(os.urandom(100_000))[:50_000])
    with pytest.raises(UserError, match="cannot be read"):
        load(path)


@pytest.mark.parametrize("data", [b"not gzip", b"\x1f\x8b\x08\x00" + b"\xff" * 60])
def test_a_damaged_gzip_file_is_one_message(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(data)
    with pytest.raises(UserError, match=r"t\.csv\.gz cannot be read"):
        load(tmp_path / "t.csv.gz")


def test_a_column_that_occurs_twice_is_refused_if_it_is_needed(tmp_path: Path) -> None:
    lines = [f"{line},x,y" for line in csv_lines()]
    assert num_rows(load(write_csv(tmp_path / "a.csv", lines, "text,label,other,other"))) == 60
    with pytest.raises(UserError, match="2 columns named 'text'"):
        load(write_csv(tmp_path / "b.csv", lines, "text,label,text,other"))


def test_a_cell_that_a_short_row_lacks_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 60: the label is missing"):
        load(write_csv(tmp_path / "t.csv", [*csv_lines(), "only a text"]))


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_clean_files_are_read_as_pandas_reads_them(ending: str, tmp_path: Path) -> None:
    generator = random.Random(1)
    alphabet = "ab \u2028\x85é中'\\" + ('",\n' if ending == "csv" else '"')
    frame = pd.DataFrame(
        {name: ["".join(generator.choices(alphabet, k=8)) + "." for _ in range(300)] for name in "xyz"}
    )
    path = tmp_path / f"t.{ending}"
    quoting = {"sep": "\t", "quoting": 3} if ending == "tsv" else {}
    frame.to_csv(path, index=False, **quoting)  # type: ignore[call-overload]
    expected = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], **quoting)
    read = read_file(path).frame
    assert read.columns.tolist() == ["x", "y", "z"]
    assert read.to_numpy().tolist() == expected.to_numpy().tolist() == frame.to_numpy().tolist()


QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"


def test_csv_quotes_in_a_tsv_file_are_a_note(tmp_path: Path) -> None:
    lines = ["\t".join(row) for row in rows()]
    lines[3] = '"she called it ""superb"""\tpos'
    task = load(write_csv(tmp_path / "t.tsv", lines, "text\tlabel"))
    assert '"she called it ""superb"""' in all_texts(task)
    assert any("1 of 60 rows have a text in quotes" in note for note in task.notes)


def test_glue_rows_that_are_cut_in_two_are_left_out_and_counted(tmp_path: Path) -> None:
    def line(number: int) -> str:
        return f"{number}\t1\t2\twhy is {number}\tis it {number}\t{number % 2}"

    lines = [line(number) for number in range(100)]
    lines[20:21] = ["20\t20\t20\twho baked the bread in", '"\twho baked bread\t0']
    folder = tmp_path / "QQP"
    folder.mkdir()
    write_csv(folder / "train.tsv", lines, QQP)
    write_csv(folder / "dev.tsv", [line(number) for number in range(200, 240)], QQP)
    task = load_task(TaskSettings(name="glue/qqp", folder=str(tmp_path)), 0)
    assert len(task.train) + len(task.selection) == 99
    assert task.label_names == ("not_duplicate", "duplicate")
    assert any("train.tsv: 2 of 101 rows have fewer than 6 fields" in note for note in task.notes)

    write_csv(folder / "train.tsv", [*lines, *["1\t2"] * 20], QQP)
    with pytest.raises(UserError, match="22 of 121 rows have fewer fields"):
        load_task(TaskSettings(name="glue/qqp", folder=str(tmp_path)), 0)
