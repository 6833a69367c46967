from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycomp.errors import UserError
from raycomp.storage.files import atomic_write, write_json
from raycomp.storage.schemas import SCHEMAS
from raycomp.storage.tables import part_files, read_table, table_dir, write_rows


def row(step: int) -> dict[str, object]:
    return {"run": "r", "method": "yoco", "step": step, "loss": 0.1 * step, "explored": False}


def test_a_part_written_again_replaces_its_rows(tmp_path: Path) -> None:
    write_rows(tmp_path, "steps", [row(0), row(1)], "a")
    write_rows(tmp_path, "steps", [row(0)], "a")
    write_rows(tmp_path, "steps", [row(5)], "b")
    assert read_table(tmp_path, "steps")["step"].tolist() == [0, 5]


def test_the_schema_is_explicit_and_empty_tables_have_it(tmp_path: Path) -> None:
    assert list(read_table(tmp_path, "deployments").columns) == SCHEMAS["deployments"].names
    with pytest.raises(ValueError, match="unknown column speed"):
        write_rows(tmp_path, "steps", [{"speed": 1}], "a")


def test_an_older_file_with_fewer_columns_is_read(tmp_path: Path) -> None:
    folder = table_dir(tmp_path, "steps")
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"run": ["old"], "step": [3]}), folder / "old.parquet")
    write_rows(tmp_path, "steps", [row(4)], "new")
    frame = read_table(tmp_path, "steps")
    assert frame["step"].tolist() == [4, 3]
    assert frame["loss"].isna().tolist() == [False, True]


def test_duckdb_reads_it_while_a_write_is_under_way(tmp_path: Path) -> None:
    write_rows(tmp_path, "steps", [row(0)], "a")
    folder = table_dir(tmp_path, "steps")
    (folder / ".b.parquet.0123.tmp").write_bytes(b"half a file")
    pattern = str(folder / "*.parquet")
    query = "select count(*) from read_parquet(?, union_by_name=true)"
    assert duckdb.execute(query, [pattern]).fetchone() == (1,)
    assert len(part_files(tmp_path, "steps")) == 1


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path, "steps", [row(0)], "a")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"a\.parquet"):
        read_table(tmp_path, "steps")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        atomic_write(tmp_path / "x" / "file", fail)
    assert list((tmp_path / "x").iterdir()) == []


def test_json_floats_round_trip(tmp_path: Path) -> None:
    import json

    value = 0.1 + 0.2
    assert json.loads(write_json(tmp_path / "a.json", {"v": value}).read_text())["v"] == value


@pytest.mark.parametrize(
    ("part", "phase", "expected"),
    [
        ("teacher-000000000", "teacher", ("teacher", None)),
        ("supernet-000000000", "heads-8", ("supernet", "heads-8")),
        ("adabert-search.k1-beta4-s0-000000000", "adabert-search.k1-beta4-s0",
         ("adabert-search.k1-beta4-s0", None)),
    ],
)  # fmt: skip
def test_older_steps_have_the_training_task_in_their_phase(
    tmp_path: Path, part: str, phase: str, expected: tuple[str, str | None]
) -> None:
    folder = table_dir(tmp_path, "steps")
    folder.mkdir(parents=True)
    old = {"run": ["old", "old"], "step": [3, 4], "phase": [phase, phase]}
    pq.write_table(pa.table(old), folder / f"{part}.parquet")

    frame = read_table(tmp_path, "steps")
    rows = frame[["training", "phase"]].astype(object).where(frame.notna(), None)
    assert set(rows.itertuples(index=False, name=None)) == {expected}


def test_older_deployments_get_the_share_of_the_limit_that_they_use(tmp_path: Path) -> None:
    folder = table_dir(tmp_path, "deployments")
    folder.mkdir(parents=True)
    old = {
        "budget": ["half", "none", "b1", "zero"],
        "kind": ["params", "params", "beta", "flops"],
        "limit": [8.0, 4.0, 4.0, 0.0],
        "cost": [6.0, None, 9.0, 5.0],
    }
    pq.write_table(pa.table(old), folder / "old.parquet")

    shares = read_table(tmp_path, "deployments")["used_share"]
    assert shares.iloc[0] == 0.75
    assert shares.iloc[1:].isna().all()
