"""Which files a server takes, writes, or does without."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from raycomp.deployment.format_settings import FormatSettings
from raycomp.deployment.serving import settings as settings_module
from raycomp.deployment.serving.settings import ServeSettings, read_serve_settings
from raycomp.errors import UserError
from raycomp.runtime.serving import family
from raycomp.runtime.serving.family import FamilyMember, choose_ladder, fit_member, prepare_family
from raycomp.storage.files import read_json, write_json
from raycomp.storage.layout import RunLayout

FILES = {
    "transformers": "model.safetensors",
    "onnx": "onnx/model.onnx",
    "int8": "onnx/model_int8.onnx",
}


THIS_CPU = {"model": "Some CPU", "instruction_sets": ["avx2"]}


def write_export(
    folder: Path,
    formats: tuple[str, ...],
    arch_id: str,
    notes: tuple[str, ...] = (),
    threads: int = 1,
) -> None:
    files = [FILES[name] for name in ("transformers", *formats)]
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("weights")
    entries = [{"file": file, "selection": 0.8} for file in files]
    certificate = {"files": entries, "arch_id": arch_id, "params": 7, "notes": list(notes)}
    certificate["machine"] = {**THIS_CPU, "threads": threads}
    write_json(folder / "certificate.json", certificate)


class FakeRun:
    """A run with a teacher and the models of two methods; exports are written by the test."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.written: list[tuple[str, FormatSettings]] = []
        self.formats: dict[str, tuple[str, ...]] = {}
        self.said: list[str] = []
        rows = {
            "teacher": {"method": "teacher", "budget": "teacher"},
            "yoco-half": {"method": "yoco", "budget": "half", "arch_id": "a"},
            "yoco-third": {"method": "yoco", "budget": "third", "arch_id": "b"},
            "pkd-half": {"method": "pkd", "budget": "half", "arch_id": "c"},
        }
        monkeypatch.setattr(family, "list_models", lambda run_dir: list(rows))
        monkeypatch.setattr(
            family,
            "find_row",
            lambda run_dir, name: next(
                row for full, row in rows.items() if name in (full, row["budget"])
            ),
        )

        def export(run_dir: Path, name: str, out: Path, settings: FormatSettings) -> None:
            self.written.append((name, settings))
            arch_id = str(rows[name].get("arch_id", "t"))
            notes = ("INT8 (dynamic) is refused.",) if name in self.formats else ()
            formats = self.formats.get(name, settings.formats)
            write_export(out, formats, arch_id, notes, settings.threads)

        monkeypatch.setattr(family, "export_budget", export)
        # The models of some machines' CPUs are not known, and are then never the same.
        monkeypatch.setattr(family, "describe_cpu", lambda: THIS_CPU)

    def prepare(self, **settings: Any) -> list[FamilyMember]:
        return prepare_family(self.path, ServeSettings(**settings), self.said.append)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    return FakeRun(tmp_path, monkeypatch)


def test_all_models_are_written_once(run: FakeRun) -> None:
    members = run.prepare(threads=3)

    # Two methods have a budget "half": only a budget of its own name is short.
    assert [member.name for member in members] == ["teacher", "yoco-half", "third", "pkd-half"]
    assert [member.full_name for member in members] == ["teacher", "yoco-half", "yoco-third", "pkd-half"]
    assert {member.runtime for member in members} == {"onnxruntime-int8"}
    assert [name for name, _ in run.written] == ["teacher", "yoco-half", "yoco-third", "pkd-half"]
    assert {(s.formats, s.batches, s.threads) for _, s in run.written} == {(("int8",), (1,), 3)}
    # The second start writes nothing.
    assert run.prepare() == members
    assert len(run.written) == 4
    # Another runtime has files of its own.
    assert run.prepare(runtime="torch", budgets=("third",))[0].runtime == "torch"
    assert len(run.written) == 5


def test_an_exported_family_is_used(run: FakeRun) -> None:
    models = RunLayout(run.path).models
    write_export(models / "yoco-third", ("onnx", "int8"), "b")
    # This model was exported before the run deployed another architecture.
    write_export(models / "yoco-half", ("int8",), "old")

    members = run.prepare(budgets=("third", "yoco-half"))

    assert [name for name, _ in run.written] == ["yoco-half"]
    assert members[0].folder == models / "yoco-third"
    # The family has no file for another runtime: this one is written.
    write_export(models / "pkd-half", ("int8",), "c")
    run.prepare(budgets=("pkd-half",), runtime="onnxruntime")
    assert [name for name, _ in run.written] == ["yoco-half", "pkd-half"]


@pytest.mark.parametrize(
    ("formats", "runtime"), [(("onnx",), "onnxruntime"), ((), "torch")], ids=["refused", "not exported"]
)
def test_a_model_without_the_file_runs_in_the_next_runtime_and_says_so(
    run: FakeRun, formats: tuple[str, ...], runtime: str
) -> None:
    run.formats["yoco-third"] = formats

    for _ in range(2):
        (member,) = run.prepare(budgets=("third",))
        assert member.runtime == runtime

    # The file was refused once; it is not tried again with each start.
    assert len(run.written) == 1
    assert run.said[-1] == (
        f"third runs in {runtime}: its file for onnxruntime-int8 was not written. INT8 (dynamic) is "
        "refused."
    )


def test_scores_of_one_metric_choose_the_networks(run: FakeRun) -> None:
    """A folder that was scored by a function of the user's is not mixed with those that were not."""
    folder = RunLayout(run.path).models / "yoco-third"

    def write(scored_by: str) -> None:
        write_export(folder, ("onnx", "int8"), "b")
        path = folder / "certificate.json"
        write_json(path, read_json(path) | {"metric": "my:profit", "selection_metric": scored_by})

    for scored_by, allow_code in (("accuracy", False), ("my:profit", True)):
        write(scored_by)
        (member,) = run.prepare(budgets=("third",), allow_code=allow_code)
        assert member.folder == folder
        assert run.written == []

    for scored_by, allow_code in (("my:profit", False), ("accuracy", True)):
        write(scored_by)
        run.prepare(budgets=("third",), allow_code=allow_code)
        shutil.rmtree(RunLayout(run.path).devices.served)
    assert [settings.allow_code for _, settings in run.written] == [False, True]


def test_int8_files_of_another_cpu_are_written_again(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.prepare(budgets=("third",), runtime="onnxruntime")
    for _ in range(2):
        run.prepare(budgets=("third",), threads=2)
        # Threads decide only on whether INT8 is refused.
        run.prepare(budgets=("third",), threads=1)
    assert len(run.written) == 2

    monkeypatch.setattr(family, "describe_cpu", lambda: THIS_CPU | {"instruction_sets": []})
    run.prepare(budgets=("third",))
    # A file in fp32 is right on each CPU.
    run.prepare(budgets=("third",), runtime="onnxruntime")
    assert [settings.formats for _, settings in run.written] == [("onnx",), ("int8",), ("int8",)]


def test_an_int8_file_that_was_refused_is_tried_again_with_other_threads(run: FakeRun) -> None:
    run.formats["yoco-third"] = ("onnx",)
    for threads in (2, 2, 4):
        run.prepare(budgets=("third",), threads=threads)
    assert [settings.threads for _, settings in run.written] == [2, 4]


@pytest.mark.parametrize(
    ("needs_reduced", "reduced", "runtime"),
    [
        (True, False, "onnxruntime"),
        (True, True, "onnxruntime-int8"),
        (False, False, "onnxruntime-int8"),
    ],
)
def test_a_node_whose_sums_would_overflow_uses_the_file_in_fp32(
    needs_reduced: bool, reduced: bool, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_export(tmp_path, ("onnx", "int8"), "a")
    path = tmp_path / "certificate.json"
    certificate = read_json(path)
    certificate["files"][1]["selection"] = 0.9
    certificate["files"][2]["details"] = {"reduce_range": reduced}
    write_json(path, certificate)
    monkeypatch.setattr(family, "needs_reduced_range", lambda: needs_reduced)

    member = FamilyMember("third", "yoco-third", tmp_path, "onnxruntime-int8", 0.8, 7)
    fitted, notice = fit_member(member)

    assert fitted.runtime == runtime
    # The policy compares the scores of the files that answer.
    assert fitted.selection == (0.9 if runtime == "onnxruntime" else 0.8)
    assert ("written on Some CPU" in notice) is (runtime == "onnxruntime")
    # An export that was asked for INT8 only has no ONNX file in fp32.
    (tmp_path / "onnx" / "model.onnx").unlink()
    assert fit_member(member)[0].runtime == ("torch" if runtime == "onnxruntime" else runtime)


def make_member(name: str, selection: float) -> FamilyMember:
    return FamilyMember(name, name, Path(name), "torch", selection, 1)


@pytest.mark.parametrize(
    ("figures", "ladder"),
    [
        # name: time, selection score
        (
            {"teacher": (10.0, 0.9), "half": (5.0, 0.85), "third": (3.0, 0.8)},
            ["teacher", "half", "third"],
        ),
        # The teacher is slower than half and not better.
        ({"teacher": (10.0, 0.85), "half": (5.0, 0.85), "third": (3.0, 0.8)}, ["half", "third"]),
        ({"teacher": (10.0, 0.8), "half": (5.0, 0.85), "third": (6.0, 0.84)}, ["half"]),
        ({"only": (10.0, 0.5)}, ["only"]),
    ],
)
def test_the_ladder_has_no_network_that_is_slower_and_not_better(
    figures: dict[str, tuple[float, float]], ladder: list[str]
) -> None:
    members = [make_member(name, selection) for name, (_, selection) in figures.items()]
    times = [time for time, _ in figures.values()]
    assert [member.name for member in choose_ladder(members, times)] == ladder


def test_settings_of_the_command() -> None:
    settings = read_serve_settings("teacher, half,teacher", "torch", 50.0, "127.0.0.1", 8000, 10_000, 0)
    assert settings.budgets == ("teacher", "half")
    # More replicas than CPUs still have a thread each.
    assert settings.threads == 1
    assert read_serve_settings("", "torch", None, "::", 1, 1, 5).threads == 5


def test_a_missing_package_of_a_runtime_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "missing_onnx_packages", lambda: ["onnxscript"])
    words = r"runtime onnxruntime-int8 needs the package onnxscript.*or choose --runtime torch"
    with pytest.raises(UserError, match=words):
        read_serve_settings("", "onnxruntime-int8", None, "127.0.0.1", 8000, 1, 0)
    read_serve_settings("", "torch", None, "127.0.0.1", 8000, 1, 0)


@pytest.mark.parametrize(
    ("budgets", "runtime", "p95_ms", "words"),
    [
        ("", "tensorrt", None, "'tensorrt' is unknown. Runtimes: onnxruntime-int8, onnxruntime, torch"),
        ("", "torch", 0.0, "--p95-ms"),
        ("", "torch", float("nan"), "--p95-ms"),
        ("teacher,,half", "torch", None, "--budgets has an empty name"),
    ],
)
def test_bad_settings_are_one_message(
    budgets: str, runtime: str, p95_ms: float | None, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        read_serve_settings(budgets, runtime, p95_ms, "127.0.0.1", 8000, 1, 0)
