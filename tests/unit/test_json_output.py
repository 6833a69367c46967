"""What --json prints: every digit, and null for what is not a number."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from raycomp.cli import main as cli
from raycomp.cli import run_output
from raycomp.cli.output import list_rows, print_json
from raycomp.storage.tables import write_rows


def printed(data: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    print_json(data)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(capsys.readouterr().out, parse_constant=refuse)


def test_a_table_keeps_its_digits_and_has_null_for_missing_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    frame = pd.DataFrame(
        {
            "loss": [3e-12, np.nan, 1 / 3, np.inf],
            "seconds": np.array([1e-20, 2.5, 3.0, np.nan], np.float32),
            "params": [1, 2, 3, 2**60],
            "name": ["a", None, "b", "c"],
            "feasible": [True, False, True, False],
            "made": [datetime(2026, 1, 1, 12, 30, 0, 250_000, UTC), pd.NaT, pd.NaT, pd.NaT],
        }
    )
    rows = printed(list_rows(frame), capsys)
    assert [row["loss"] for row in rows] == [3e-12, None, 1 / 3, None]
    assert [row["seconds"] for row in rows] == [float(np.float32(1e-20)), 2.5, 3.0, None]
    assert [row["params"] for row in rows] == [1, 2, 3, 2**60]
    assert [row["name"] for row in rows] == ["a", None, "b", "c"]
    assert [row["feasible"] for row in rows] == [True, False, True, False]
    assert [row["made"] for row in rows] == ["2026-01-01T12:30:00.250Z", None, None, None]


def test_other_values_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"a": (float("nan"), np.float64(2.0)), "b": np.array([1.0, np.inf]), "c": Path("x")}
    assert printed(data, capsys) == {"a": [None, 2.0], "b": [1.0, None], "c": "x"}


def test_query_prints_a_small_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job.json").write_text('{"run": {}, "task": {}}')
    row = {"run": "r", "method": "yoco", "budget": "half", "arch": "{}", "parity": 3e-12}
    write_rows(tmp_path, "deployments", [row], "yoco")
    monkeypatch.setattr("sys.argv", ["raycomp", "query", str(tmp_path), "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    output = capsys.readouterr()
    assert output.err == ""
    (printed_row,) = json.loads(output.out)
    assert printed_row["parity"] == 3e-12
    assert printed_row["latency_ms"] is None


def test_the_command_imports_pandas_only_for_a_table() -> None:
    """`raycomp --help` starts within a second."""
    for module in (cli, run_output):
        assert not hasattr(module, "pd")
