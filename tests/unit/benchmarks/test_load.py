from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import load
from raycomp.storage.tables import read_table


def test_every_architecture_goes_through_the_ledger_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load, "ROWS_PER_MEASUREMENT", 16)
    load.measure_rows(tmp_path, 48)
    assert len(read_table(tmp_path, "evaluations")) == 48
    assert "rows      48 in" in capsys.readouterr().out
