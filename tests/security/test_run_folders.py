"""A run's folder that someone else wrote: tables, JSON, links."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycomp.config.loader import parse_job
from raycomp.data.tokens import cached
from raycomp.deployment.format_settings import FormatSettings
from raycomp.deployment.formats import FormatResult, ModelData
from raycomp.deployment.runtimes import model_forward
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.report import query, write_report
from raycomp.runtime.pipeline import export_formats
from raycomp.runtime.pipeline.reexport import export_budget
from raycomp.storage.files import read_json, write_json
from raycomp.storage.schemas import SCHEMAS
from raycomp.storage.tables import read_table, write_rows
from raycomp.storage.tensors import save_tensors
from tests.security.conftest import Refused
from tests.unit.deployment.test_certificate import FILES

FRAME = pd.DataFrame({"params": [1.0, 2.0], "n": [1, 2], "budget": ["a", "b"], "feasible": [True, False]})


@pytest.mark.parametrize(
    "expression",
    [
        "params.__class__",
        "().__class__.__bases__[0].__subclasses__()",
        "__import__('os').system('true')",
        "__builtins__",
        "params ** 999999999 > 1",
        "9 ** 9 ** 9 < n",
        "'a' * 99999999999 == budget",
        "budget * 999999999 == budget",
        "999999999 * budget == budget",
        "budget + budget == 'aa'",
        f"params < {'9' * 400}",
        "(" * 900 + "n" + ")" * 900,
        "-" * 1990 + "n > 1",
        "not " * 450 + "feasible.x",
        "n > 1 or " * 400 + "x",
        "lambda: 1",
        "[x for x in n]",
        "f'{n}'",
        "n[0] == 1",
        "n @ n > 1",
        "(n := 1) > 0",
        "n > 1j",
        "b'x' == budget",
        "print('x')",
        "budget in n",
        "n == 'a\x00b'",
        "\x1b[31m",
        "1 < 2",
        "",
    ],
    ids=lambda v: v[:24].encode("unicode_escape").decode(),
)
def test_a_filter_is_no_code(expression: str) -> None:
    began = time.perf_counter()
    with pytest.raises(UserError) as caught:
        query.filter_rows(FRAME, expression)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 900
    assert time.perf_counter() - began < 1


def test_a_filter_of_columns_still_filters() -> None:
    assert list(query.filter_rows(FRAME, "params * 2 - 1 >= n and budget in ['b']")["n"]) == [2]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs-1a2b3c4d"
    folder.mkdir()
    (folder / "job.json").write_text('{"run": {}, "task": {}}')
    return folder


def row(**more: Any) -> dict[str, Any]:
    return {"run": "r", "method": "yoco", "budget": "half", "arch": "{}", "kind": "params", **more}


def test_text_of_a_table_is_neither_markup_nor_a_terminal_s_command(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from raycomp.cli import main as cli

    write_rows(
        run, "deployments", [row(reason="[/red] [link=file:///x]y[/link] \x1b]0;title\x07")], "yoco"
    )
    monkeypatch.setattr(sys, "argv", ["raycomp", "query", str(run)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, _ = capsys.readouterr()
    assert ended.value.code == 0
    assert "[link=file:///x]y[/link]" in out
    assert "\x1b" not in out
    assert "\x07" not in out


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_a_table_of_other_types_is_named(name: str, run: Path, refused: Refused) -> None:
    folder = run / "tables" / name
    folder.mkdir(parents=True)
    wrong = pa.table({field.name: [[{"x": 1}]] for field in SCHEMAS[name]})
    pq.write_table(wrong, folder / "a.parquet")
    assert "a.parquet" in refused("query", str(run), "--table", name)


def test_text_that_is_no_utf8_in_a_table_is_named(run: Path, refused: Refused) -> None:
    offsets, data = pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")
    torn = pa.StringArray.from_buffers(1, offsets, data)
    (run / "tables" / "deployments").mkdir(parents=True)
    pq.write_table(pa.table({"budget": torn}), run / "tables" / "deployments" / "a.parquet")
    for command in (["query"], ["report"]):
        assert "a.parquet" in refused(*command, str(run))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, "\udcff", '{"run": ' + "9" * 5000 + "}"], ids=lambda v: v[:6]
)
def test_json_of_a_run_is_read_or_named(text: str, run: Path, refused: Refused) -> None:
    (run / "job.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"job\.json"):
        read_json(run / "job.json")
    assert "job.json" in refused("report", str(run))


def test_injected_html_is_text(run: Path) -> None:
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    (run / "job.json").write_text(json.dumps({"run": {"name": attack}, "task": {"name": attack}}))
    (run / "environment.json").write_text(json.dumps({attack: attack}))
    write_rows(run, "deployments", [row(budget=attack, metric=attack, reason=attack, arch=None)], "yoco")
    page = write_report(run, run / "report.html").read_text()
    assert "&lt;img src=x onerror" in page
    assert "<img src=x" not in page
    assert "<script>alert(1)" not in page


def test_a_budget_s_name_is_no_path(run: Path, tmp_path: Path, refused: Refused) -> None:
    write_rows(run, "deployments", [row()], "yoco")
    out = str(tmp_path / "out")
    for name in ("../../etc", "half/..", "", "\x1b[31m", "x" * 3000):
        said = refused("export", str(run), f"--budget={name}", "--out", out)
        assert "did not deploy a model" in said
    assert not (tmp_path / "out").exists()


def test_an_export_replaces_nothing_and_follows_no_link(
    run: Path, tmp_path: Path, refused: Refused
) -> None:
    write_rows(run, "deployments", [row()], "yoco")
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for name, words in (
        ("link", "is a symbolic link"),
        ("dangling", "is a symbolic link"),
        ("full", "not empty"),
    ):
        assert words in refused("export", str(run), "--budget", "half", "--out", str(tmp_path / name))
    assert kept.is_dir()
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError):  # the run's own settings are checked as any job file
        export_budget(run, "half", tmp_path / "new")


def test_a_table_s_name_is_no_path(run: Path, refused: Refused) -> None:
    assert " is unknown. Tables:" in refused("query", str(run), "--table", "../../etc")


@pytest.mark.parametrize("key", ["../../x", "/etc/passwd", "", "A" * 32, "a" * 31])
def test_tokens_are_found_by_hash_alone(key: str, tmp_path: Path) -> None:
    assert cached(tmp_path, key, 1) is None


def test_a_write_replaces_a_link_and_not_what_it_points_to(run: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (run / "tables" / "steps").mkdir(parents=True)
    (run / "tables" / "steps" / "a.parquet").symlink_to(tmp_path / "precious")
    write_rows(run, "steps", [{"run": "r", "step": 1}], "a")
    assert (tmp_path / "precious").read_text() == "mine"
    assert list(read_table(run, "steps")["step"]) == [1]


def write_run(job: dict[str, Any], metric: str, folder: Path) -> Path:
    """Write a run whose teacher can be exported, and return its directory."""
    job["task"]["metric"] = metric
    parsed = parse_job(job)
    context = RunContext(parsed, folder / parsed.run_id)
    context.run_dir.mkdir()
    context.record_facts()
    write_json(context.layout.job, parsed.model_dump(mode="json"))
    scores = {"selection": {metric: 0.5}, "validation": {metric: 0.5}}
    write_json(context.layout.teacher_score, scores)
    save_tensors(context.layout.teacher_network, context.network().state_dict())
    return context.run_dir


def test_an_export_imports_the_metric_of_a_run_only_when_it_is_allowed(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module may be any file of the working directory, or any installed one."""
    ran = tmp_path / "ran"
    (tmp_path / "their_metrics.py").write_text(
        f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
        "def profit(labels, predictions):\n    return 0.25\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_metrics", raising=False)

    def write_files(
        network: Any, loaded: Any, folder: Path, settings: FormatSettings, data: ModelData
    ) -> FormatResult:
        score = data.score(model_forward(loaded))
        return FormatResult((replace(FILES[0], selection=score),), ())

    def write_folder(context: Any, deployable: Any, out: Path, figures: Any) -> dict[str, Any]:
        out.mkdir()
        return {"params": 1, "max_logit_difference": 0.0}

    monkeypatch.setattr(export_formats, "write_formats", write_files)
    monkeypatch.setattr(export_formats, "export_deployable", write_folder)
    monkeypatch.setattr(export_formats, "_calibration", lambda context: [])
    run_dir = write_run(tiny_job, "their_metrics:profit", tmp_path)
    settings = FormatSettings(("onnx",), threads=1)

    certificate = export_budget(run_dir, "teacher", tmp_path / "a", settings)
    assert certificate["selection_metric"] == "accuracy"
    assert any("--allow-code" in note for note in certificate["notes"])
    # A run without another metric is refused, before anything is written.
    facts = run_dir / "facts.json"
    write_json(facts, read_json(facts) | {"metrics": ["their_metrics:profit"]})
    with pytest.raises(UserError, match=r"their_metrics:profit.*--allow-code"):
        export_budget(run_dir, "teacher", tmp_path / "b", settings)
    assert not (tmp_path / "b").exists()
    assert not ran.exists()

    allowed = replace(settings, allow_code=True)
    certificate = export_budget(run_dir, "teacher", tmp_path / "c", allowed)
    assert certificate["selection_metric"] == "their_metrics:profit"
    assert certificate["files"][0]["selection"] == 0.25
    assert ran.exists()
