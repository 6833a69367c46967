"""Data files of another kind than their name says, and directories of unequal files: one message."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import pickle
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycomp.data.files import read_file
from raycomp.errors import UserError
from tests.unit.data.test_files import load, num_rows, rows

ROWS = rows()
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)
JSONL = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS)
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n"


def parquet_bytes(tmp_path: Path) -> bytes:
    path = tmp_path / "made.bin"
    pq.write_table(pa.table({"text": [t for t, _ in ROWS], "label": [k for _, k in ROWS]}), path)
    return path.read_bytes()


def zip_bytes(tmp_path: Path) -> bytes:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return (tmp_path / "made.zip").read_bytes()


# Content, and words that name its kind and the remedy.
CONTENTS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "gzip": (gzip.compress(CSV.encode()), ("gzip", "Add .gz")),
    "bzip2": (bz2.compress(CSV.encode()), ("bzip2", "Unpack")),
    "xz": (lzma.compress(CSV.encode()), ("xz", "Unpack")),
    "utf-16": (CSV.encode("utf-16"), ("UTF-16", "as UTF-8")),
    "utf-16 big": (codecs.BOM_UTF16_BE + CSV.encode("utf-16-be"), ("UTF-16", "as UTF-8")),
    "utf-16 without mark": (CSV.encode("utf-16-le"), ("UTF-16", "as UTF-8")),
    "utf-16 big without mark": (CSV.encode("utf-16-be"), ("UTF-16", "as UTF-8")),
    "utf-32": (CSV.encode("utf-32"), ("UTF-32", "as UTF-8")),
    "lfs": (LFS.encode(), ("Git LFS", "git lfs pull")),
    "html": (b"<!DOCTYPE html><html><body>404, not found</body></html>", ("HTML", "Download")),
    "html with mark": (codecs.BOM_UTF8 + b"<HTML>", ("HTML", "Download")),
    "excel's first line": (b"sep=,\n" + CSV.encode(), ("Excel", "Remove this line")),
    "pickle": (pickle.dumps(ROWS, protocol=4), ("pickle", "Parquet")),
}


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_of_another_kind_is_named(name: str, ending: str, tmp_path: Path) -> None:
    content, words = CONTENTS[name]
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load(path)
    assert all(word in str(error.value) for word in (*words, str(path)))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_binary_tables_are_named(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{ending}"
    for content, word in ((parquet_bytes(tmp_path), "Parquet"), (zip_bytes(tmp_path), "Excel")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=word):
            load(path)


def test_text_that_is_named_parquet_or_gzip(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text(LFS)
    with pytest.raises(UserError, match="git lfs pull"):
        load(path)
    path = tmp_path / "rows.csv.gz"
    path.write_text(CSV)
    with pytest.raises(UserError, match=r"not compressed with gzip\. Remove \.gz"):
        load(path)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "csv.gz"])
def test_a_byte_of_windows_is_named_with_its_line(ending: str, tmp_path: Path) -> None:
    lines = (JSONL if ending == "jsonl" else CSV).splitlines()
    lines[40] = lines[40].replace("neg", "n\xe9g").replace("pos", "p\xe9s")
    content = ("\n".join(lines) + "\n").encode("cp1252")
    if ending == "tsv":
        content = content.replace(b",", b"\t")
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    with pytest.raises(UserError, match=r"line 41 is not UTF-8.* as UTF-8"):
        load(path)


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_nul_characters_of_a_text_file_are_damage(ending: str, separator: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{ending}"
    path.write_text(CSV.replace(",", separator).replace("song", "so\0ng", 1))
    with pytest.raises(UserError, match=r"line \d+ contains NUL"):
        load(path)
    path.write_text(CSV.replace(",", separator) + "\0" * 300)
    with pytest.raises(UserError, match="line 62 contains NUL"):
        load(path)


def test_nul_characters_of_a_cell_are_named_with_the_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for column in ("text", "label"):
        row = {"text": "a b c", "label": "neg", column: "x\0y"}
        path.write_text(JSONL + json.dumps(row) + "\n")
        with pytest.raises(UserError, match=f"row 60: the {column} .*NUL"):
            load(path)


@pytest.mark.parametrize(
    ("ending", "separator", "words"),
    [
        ("csv", ";", "separated by ';'. Write the file with commas"),
        ("csv", "\t", "Name the file .tsv"),
        ("csv", "|", "separated by '|'"),
        ("tsv", ",", "Name the file .csv"),
        ("csv.gz", ";", "separated by ';'"),
    ],
)
def test_another_separator_is_named(ending: str, separator: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{ending}"
    content = CSV.replace(",", separator).encode()
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    with pytest.raises(UserError) as error:
        load(path)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("", "The first line of the file must have the names"),
        ("# of 2024\ntext,label\n", "The first line of the file must have the names"),
        (" text , label \n", "Did you mean ' text '? It differs only in case, blanks"),
        ("Text,Label\n", "Did you mean 'Text'? It differs only in case, blanks"),
        ("\ufefftext,label\n", "invisible characters"),
        ("texts,label\n", "Did you mean 'texts'? Columns"),
    ],
)
def test_a_header_of_other_names_is_explained(header: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(header + CSV.partition("\n")[2], encoding="utf-8-sig")
    with pytest.raises(UserError) as error:
        load(path)
    assert words in str(error.value)


def test_files_that_were_joined_with_their_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(CSV + CSV)
    with pytest.raises(UserError, match=r"line 62 \(row 60\) repeats the header"):
        load(path)

    # A file of one column can have a text that is the name of the column.
    path.write_text("text\nwarm\ntext\n")
    assert read_file(path).frame["text"].tolist() == ["warm", "text"]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv", "tsv"])
def test_an_empty_file_is_called_empty(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(gzip.compress(b"\n\n") if ending.endswith("gz") else b"\n\n")
    with pytest.raises(UserError, match="the file is empty"):
        load(path)


def directory(tmp_path: Path, ending: str, *contents: str) -> Path:
    folder = tmp_path / f"rows.{ending}"
    folder.mkdir()
    for number, content in enumerate(contents):
        (folder / f"part-{number}.{ending}").write_text(content)
    return folder


@pytest.mark.parametrize(
    ("ending", "second"),
    [
        ("csv", CSV.partition("\n")[2]),
        ("csv", CSV.replace("label", "class", 1)),
        ("tsv", CSV.partition("\n")[2].replace(",", "\t")),
        ("jsonl", JSONL.replace('"label"', '"class"')),
    ],
)
def test_no_part_of_a_directory_is_lost(ending: str, second: str, tmp_path: Path) -> None:
    first = {"csv": CSV, "tsv": CSV.replace(",", "\t"), "jsonl": JSONL}[ending]
    folder = directory(tmp_path, ending, first, second)
    with pytest.raises(UserError, match=r"part-1\.\w+ lacks the column '\w+', which other files"):
        load(folder)


@pytest.mark.parametrize(("ending", "content"), [("csv", CSV), ("jsonl", JSONL)])
def test_empty_parts_of_a_directory_are_skipped(ending: str, content: str, tmp_path: Path) -> None:
    folder = directory(tmp_path, ending, "", content, "")
    (folder / f"part-9.{ending}.gz").write_bytes(gzip.compress(b""))
    assert num_rows(load(folder)) == len(ROWS)
    (folder / f"part-1.{ending}").write_text("")
    with pytest.raises(UserError, match="the file is empty"):
        load(folder)


def test_columns_of_a_parquet_file_that_occur_twice(tmp_path: Path) -> None:
    texts, labels = zip(*ROWS, strict=True)
    path = tmp_path / "rows.parquet"
    table = pa.table([texts, labels, labels], names=["text", "label", "label"])
    pq.write_table(table, path)
    with pytest.raises(UserError, match="it has 2 columns named 'label'"):
        load(path)

    # Columns that are not read can have any names.
    pq.write_table(pa.table([texts, labels, labels, labels], names=["text", "label", "x", "x"]), path)
    assert num_rows(load(path)) == len(ROWS)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("column", ["text", "label"])
def test_half_a_character_in_any_row_is_one_message(row: int, column: str, tmp_path: Path) -> None:
    lines = [{"text": text, "label": label} for text, label in ROWS]
    lines[row][column] = "\ud800"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=f"row {row}: the {column} .*half a character"):
        load(path)
