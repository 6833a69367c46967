"""Files of text and labels that come from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycomp.config.task import TaskSettings
from raycomp.data import files
from raycomp.data.tasks import Task, load_task
from raycomp.errors import UserError
from tests.security.conftest import Refused

GOOD = pd.DataFrame({"text": [f"row {i}" for i in range(50)], "label": ["a", "b"] * 25})
CSV = GOOD.to_csv(index=False).encode()
LINES = GOOD.to_json(orient="records", lines=True).encode()


def task(path: Path) -> Task:
    return load_task(TaskSettings(train=str(path), text=["text"], label="label"), 0)


def line(text: Any, label: Any = "a") -> bytes:
    return json.dumps({"text": text, "label": label}).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("t.csv", CSV + b"\xff\xfe,a\n", "line 52 is not UTF-8"),
        ("t.csv", CSV + b'"' + b"x" * 1000, "a field begins with a quote that is not closed"),
        ("t.csv", CSV + b"x" * 1_000_001 + b",a\n", "row 50: the text has 1,000,001 characters"),
        ("t.csv", CSV + b"x," + b"9" * 6000 + b"\n", "6,000 characters"),
        ("t.csv", bytes(range(256)) * 100, "cannot be read"),
        ("t.csv", b"", "cannot be read"),
        ("t.tsv", b"text\tlabel\n\xff\ta\n", "line 2 is not UTF-8"),
        ("t.jsonl", LINES + b"[" * 100_000, "recursion"),
        ("t.jsonl", LINES + line([["x"]]), "row 50: the text is of type list"),
        ("t.jsonl", LINES + line({"x": 1}), "type dict"),
        ("t.jsonl", LINES + line("x", {"a": 1}), "row 50: the label is of type dict"),
        ("t.jsonl", LINES + line("x", 10**400), "401 characters"),
        ("t.jsonl", b"1\n2\n", "not a JSON object"),
        ("t.jsonl", b"".join(b'{"k%d":1}\n' % i for i in range(20_000)), "2,000 columns"),
        ("t.parquet", b"PAR1" + b"\x00" * 100 + b"PAR1", "cannot be read"),
        ("t.pkl", b"\x80\x04cos\nsystem\n", "unknown suffix '.pkl'"),
        ("t.csv.gz", b"\x1f\x8b", "cannot be read"),
        ("t.parquet.gz", b"\x1f\x8b", "unknown suffix '.gz'"),
        ("t.zip", b"PK\x03\x04", "unknown suffix '.zip'"),
        ("t.npy", b"\x93NUMPY", "unknown suffix '.npy'"),
    ],
    ids=lambda v: v[:20] if isinstance(v, str) else None,
)
def test_a_hostile_file_is_one_message(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        task(tmp_path / name)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": [[1], [2]], "label": ["a", "b"]}, "the text is of type"),
        ({"text": ["x", "y"], "label": [{"a": 1}, {"a": 2}]}, "the label is of type dict"),
        ({"text": [b"\xff", b"y"], "label": ["a", "b"]}, "the text is of type bytes"),
    ],
)
def test_columns_of_parquet_that_hold_no_text(
    columns: dict[str, list[Any]], words: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table({k: v * 20 for k, v in columns.items()}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=words):
        task(tmp_path / "t.parquet")


def test_parquet_that_claims_more_than_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that would be gigabytes of rows, or of one text written once."""
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 2**30)
    path = tmp_path / "t.parquet"
    same = pa.array(np.zeros(5_000_000, np.int32))
    pq.write_table(pa.table({n: pa.array(["x"]).take(same) for n in ("text", "label")}), path)
    with pytest.raises(UserError, match="it unpacks to 5,000,000 rows"):
        task(path)
    text = pa.DictionaryArray.from_arrays(np.zeros(20_000, np.int32), ["x" * 100_000])
    rows = pa.table({"text": text, "label": pa.array(range(20_000))})
    for said in (True, False):  # whether the file itself says that it is a dictionary
        pq.write_table(rows, path, compression="zstd", use_dictionary=["text"], store_schema=said)
        assert path.stat().st_size < 200_000
        with pytest.raises(UserError, match="unpacks to 2,000,000,000 bytes of text"):
            task(path)


def test_text_of_parquet_that_is_no_utf8(tmp_path: Path) -> None:
    offsets, data = pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xff\xfe")
    torn = pa.StringArray.from_buffers(2, offsets, data)
    pq.write_table(pa.table({"text": torn, "label": ["a", "b"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="UTF8"):
        task(tmp_path / "t.parquet")


def test_metadata_of_pandas_is_not_obeyed(tmp_path: Path) -> None:
    table = pa.Table.from_pandas(GOOD).replace_schema_metadata({"pandas": '{"index_columns": [1]}'})
    pq.write_table(table, tmp_path / "t.parquet")
    assert task(tmp_path / "t.parquet").label_names == ("a", "b")


def test_a_file_that_is_too_large_is_not_opened(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 1)  # a hole: it takes no space
    with pytest.raises(UserError, match="larger than 8 GiB"):
        task(tmp_path / "t.csv")


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    for path in ("/dev/null", "x" * 4000, "a\x00b.csv", str(tmp_path / "loop.csv")):
        with pytest.raises(UserError, match="does not exist"):
            task(Path(path))


def test_the_command_line_says_it_in_one_line(job_file: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "t.jsonl").write_bytes(LINES + line("\x1b[2Jx", {"a": 1}))
    given = [f"task.train={tmp_path / 't.jsonl'}", 'task.text=["text"]', "task.label=label"]
    sets = [part for g in given for part in ("--set", g)]
    assert "type dict" in refused("plan", str(job_file), *sets)


class _Builder:
    """Stands for what the Hub's library makes of a repository of files of one format."""

    def download_and_prepare(self) -> None:
        raise AssertionError("files of a format that is not allowed were fetched")


@pytest.mark.parametrize("kind", ["webdataset", "pandas", "hdf5", "imagefolder"])
def test_datasets_of_archives_and_pickles_are_not_fetched(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    builder = type("Made", (_Builder,), {"__module__": f"datasets.packaged_modules.{kind}.{kind}"})
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_: builder())
    with pytest.raises(UserError, match=rf"format {kind}\. Allowed"):
        load_task(TaskSettings(name="owner/data", text=["text"], label="label"), 0)
