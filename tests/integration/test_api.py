"""The Python API on a tiny model: compress, resume, use the models, fail and be interrupted cleanly."""

from __future__ import annotations

import _thread
import json
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import ray
import torch
from sklearn.metrics import balanced_accuracy_score

import raycomp
from raycomp.search.searchers import RandomSearch
from raycomp.storage.layout import RunLayout
from raycomp.training.hints import Hidden
from tests.conftest import make_sentences

TEXTS = ["a fine film", "the plot was dull and the cast weak", "story"]


@pytest.fixture(scope="module")
def arguments(tuned_model: Path) -> dict[str, Any]:
    """Arguments of a call that takes seconds: the model is fine-tuned already."""
    return {
        "model": str(tuned_model),
        "data": {"train": make_sentences(120, 0), "validation": make_sentences(40, 1)},
        "budgets": {"half": {"encoder_params": "0.5x"}},
        "name": "api",
        "metric": balanced_accuracy_score,
        "task": {"max_length": 16},
        "space": {"depth": [1, 3], "heads": [2, 4], "ffn": [16, 64]},
        "train": {"distill": Hidden, "steps": 2, "batch_size": 16, "precision": "fp32", "interval": 2},
        "heal": {"steps": 2},
        "search": {"searchers": [RandomSearch], "evaluations": 6, "batch": 3, "evaluators": 1},
        "settings": {"run.tracking": []},
    }


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(arguments: dict[str, Any], storage: Path) -> raycomp.Run:
    return raycomp.compress(**arguments, storage=storage)


def living_actors() -> list[str]:
    """Return the classes of the actors of this session that are not dead, with or without a name."""
    from ray._private import state

    # Ray starts the other one by itself, once per session.
    names = [a["ActorClassName"] for a in state.actors().values() if a["State"] != "DEAD"]
    return [name for name in names if name != "_AutoscalingCoordinatorActor"]


def wait_for_no_actors() -> None:
    deadline = time.monotonic() + 20
    while living_actors():
        assert time.monotonic() < deadline, living_actors()
        time.sleep(0.1)


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model(**batch).logits


def test_a_compressed_model_is_used_by_plain_code(run: raycomp.Run, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = run.deployments
    assert rows["budget"].tolist() == ["half"]
    assert (run.path / "report.html").exists()
    assert 0 < len(run.evaluations) <= 6
    assert set(rows["metric"]) == {"sklearn.metrics._classification:balanced_accuracy_score"}
    assert set(rows["searcher"]) == {"raycomp.search.searchers:RandomSearch"}
    assert run.job.train.distill == "raycomp.training.hints:Hidden"
    predictions = run.path / "predictions"
    labels = np.load(predictions / "labels.validation.npy")
    answers = np.load(predictions / "yoco-half.validation.npy").argmax(1)
    assert rows["validation"].item() == balanced_accuracy_score(labels, answers)
    assert run.plan()["budgets"][0]["feasible"]

    best = run.best("params < 1e9 and feasible")
    model, tokenizer = best.load(), best.load_tokenizer()
    assert sum(p.numel() for p in model.parameters()) == best.params
    saved = best.save(tmp_path / "phone")
    plain = AutoModelForSequenceClassification.from_pretrained(saved, trust_remote_code=True).eval()
    plain_tokenizer = AutoTokenizer.from_pretrained(saved)
    assert torch.equal(logits(model, tokenizer), logits(plain, plain_tokenizer))
    assert torch.equal(logits(run.load("half"), tokenizer), logits(model, tokenizer))
    assert run.save("half", tmp_path / "again") == tmp_path / "again"
    with pytest.raises(raycomp.UserError, match="not empty"):
        run.save("half", tmp_path / "again")


def test_the_code_of_a_run_directory_is_not_executed(run: raycomp.Run) -> None:
    code = run.path / "exports" / "yoco-half" / "modeling_raycomp.py"
    before = code.read_text()
    code.write_text("raise SystemExit('executed')\n")
    try:
        assert run.load("half") is not None
    finally:
        code.write_text(before)


def test_the_family_of_a_run_in_all_formats(
    run: raycomp.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from raycomp.deployment import measured_files

    # A process of its own for each file takes seconds.
    monkeypatch.setattr(measured_files, "measure_peak_memory", lambda *_, **__: None)
    names = ("plain", "onnx", "int8")
    certificates = run.export(tmp_path / "models", formats=names, batches=[1, 2], threads=1)
    assert [certificate["out"] for certificate in certificates] == ["teacher", "yoco-half"]
    teacher, half = certificates
    assert teacher["limits"] == []
    assert half["limits"][0]["quantity"] == "encoder_params"
    assert half["limits"][0]["verdict"] == "PASS"
    assert half["files"][0]["selection"] == pytest.approx(run.best().selection, abs=1e-6)
    for certificate in certificates:
        folder = tmp_path / "models" / certificate["out"]
        assert json.loads((folder / "certificate.json").read_text())["params"] == certificate["params"]
        assert all((folder / entry["file"]).exists() for entry in certificate["files"])
        onnx = next(entry for entry in certificate["files"] if entry["format"] == "onnx")
        assert abs(onnx["loss"]) < 1e-6
        assert "Measured files" in (folder / "README.md").read_text()
    assert list((tmp_path / "models" / "teacher").glob("*.py")) == []
    page = (tmp_path / "models" / "index.html").read_text()
    assert page.count("onnx/model.onnx") >= 4

    # The teacher has a name of its own, too; a limit that no file meets is a failure, not an error.
    single = run.deployment("teacher").export(
        tmp_path / "teacher", formats="transformers", limits=["latency_ms=1e-9"], batches=[1]
    )
    assert single["verdict"] == "FAIL"
    assert single["params"] == teacher["params"]
    with pytest.raises(raycomp.UserError, match="not empty"):
        run.export(tmp_path / "models", formats="onnx")


def test_a_failed_run_leaves_no_actors_and_the_same_call_resumes(
    run: raycomp.Run, arguments: dict[str, Any], storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raycomp.runtime.pipeline import handle

    def fail(*_: Any, **__: Any) -> None:
        assert living_actors()
        raise raycomp.UserError("The search failed.")

    names = ("steps", "evaluations", "deployments")
    before = {name: run.table(name) for name in names}
    RunLayout(run.path).summary("yoco").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(handle, "search_budgets", fail)
        with pytest.raises(raycomp.UserError, match="search failed") as error:
            raycomp.compress(**arguments, storage=storage)
    wait_for_no_actors()
    assert error.value.__traceback__ is not None
    assert ray.get(ray.remote(lambda: 1).remote()) == 1

    # The same rows in another form.
    splits = {name: datasets.Dataset.from_pandas(frame) for name, frame in arguments["data"].items()}
    data = datasets.DatasetDict(**splits, test=splits["validation"])
    assert raycomp.compress(**{**arguments, "data": data}, storage=storage) == run
    for name, rows in before.items():
        timed = [column for column in ("seconds", "latency_ms") if column in rows]
        pd.testing.assert_frame_equal(run.table(name).drop(columns=timed), rows.drop(columns=timed))
    wait_for_no_actors()


def test_a_run_that_keeps_no_exports_still_loads(run: raycomp.Run) -> None:
    tokenizer = run.best().load_tokenizer()
    kept = logits(run.load("half"), tokenizer)
    (run.path / "exports").rename(run.path / "hidden")
    try:
        assert torch.equal(logits(run.load("half"), tokenizer), kept)
        assert not (run.path / "exports").exists()
    finally:
        (run.path / "hidden").rename(run.path / "exports")


def test_an_interrupted_run_leaves_a_usable_session_and_resumes(
    arguments: dict[str, Any], storage: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Interrupt(raycomp.Callback):
        def on_progress(self, part: str, done: int, total: int, figures: dict[str, Any]) -> None:
            if part == "super-network" and done >= 1:
                _thread.interrupt_main()

    changed = {**arguments, "name": "interrupted", "train": {**arguments["train"], "steps": 400}}
    with pytest.raises(KeyboardInterrupt):
        raycomp.compress(**changed, storage=storage, callbacks=[Interrupt()])
    assert "Call raycomp.compress again" in caplog.text
    wait_for_no_actors()
    assert ray.get(ray.remote(lambda: 1).remote()) == 1

    open_run = raycomp.open_run(next(storage.glob("interrupted-*")))
    assert open_run.teacher["selection"]
    assert open_run.deployments.empty


def test_a_plan_trains_nothing(arguments: dict[str, Any], storage: Path) -> None:
    keys = ("model", "data", "budgets", "task", "space", "train")
    prediction = raycomp.plan(**{key: arguments[key] for key in keys}, storage=storage)
    assert prediction["steps"]["supernet"] > 0
    assert np.isfinite(prediction["memory_gib"])
    assert not list(storage.glob("run-*"))
