"""The Python API without a run: from arguments to a job, tables of a run, callbacks, progress."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertForSequenceClassification

import raycomp
from raycomp.api.callbacks import CallbackList
from raycomp.api.job_builder import Request, build_job
from raycomp.api.progress import SessionProgress
from raycomp.api.session import check_references
from raycomp.config.elastic import DISTILLATIONS
from raycomp.config.job import Job
from raycomp.config.loader import parse_job
from raycomp.data.metrics import compute
from raycomp.search.searchers import make_searcher
from raycomp.storage.files import write_array
from raycomp.training.hints import DISTILLATION, Labels, load_objective
from tests.conftest import make_bert_config, make_sentences, make_tokenizer, randomise_weights
from tests.unit.report.run_factory import begin_run, write_run

BUDGETS = {"phone": {"encoder_params": "0.5x"}}


def make_job(storage: Path, /, **arguments: Any) -> Job:
    names = {name for name in Request.__dataclass_fields__ if name != "sections"}
    common = {key: value for key, value in arguments.items() if key in names}
    sections = {key: value for key, value in arguments.items() if key not in names}
    request = Request(**{"model": "some/model", "budgets": BUDGETS, **common, "sections": sections})
    return build_job(request, storage)


def message(storage: Path, /, **arguments: Any) -> str:
    with pytest.raises(raycomp.UserError) as error:
        make_job(storage, **arguments)
    return str(error.value)


@pytest.fixture
def model() -> BertForSequenceClassification:
    network = BertForSequenceClassification(make_bert_config(num_labels=2))
    randomise_weights(network)
    return network


# Settings


def test_a_call_makes_the_job_that_a_job_file_makes(tmp_path: Path, tiny_data: Path) -> None:
    called = make_job(
        tmp_path,
        data={"train": tiny_data / "train.csv", "validation": str(tiny_data / "validation.csv")},
        name="reviews",
        methods=("yoco",),
        train={"epochs": 2},
        settings={"train.batch_size": np.int64(16), "budget.phone.encoder_params": "0.4x"},
    )
    written = parse_job(
        {
            "run": {"name": "reviews", "methods": ["yoco"]},
            "task": {
                "train": str(tiny_data / "train.csv"),
                "validation": str(tiny_data / "validation.csv"),
                "text": ["text"],
                "label": "label",
            },
            "model": {"name": "some/model"},
            "train": {"epochs": 2, "batch_size": 16},
            "budget": [{"name": "phone", "encoder_params": "0.4x"}],
        }
    )
    assert called == written
    assert called.run_id == written.run_id


def test_arguments_override_a_job(tmp_path: Path, tiny_job: dict[str, Any]) -> None:
    start = parse_job(tiny_job)
    assert make_job(tmp_path, model=None, budgets=None, job=start) == start
    changed = make_job(tmp_path, model=None, job=start, data="glue/sst2", settings={"train.interval": 5})
    assert (changed.task.name, changed.task.train) == ("glue/sst2", None)
    assert changed.train.interval == 5
    assert changed.train.batch_size == start.train.batch_size
    assert [budget.name for budget in changed.budget] == ["phone"]


@pytest.mark.parametrize(
    "budgets",
    [
        BUDGETS,
        [raycomp.Budget("phone", encoder_params="0.5x")],
        [{"name": "phone", "encoder_params": "0.5x"}],
    ],
    ids=["dict", "Budget", "list of dicts"],
)
def test_budgets_have_three_forms(budgets: Any, tmp_path: Path) -> None:
    job = make_job(tmp_path, data="glue/sst2", budgets=budgets)
    assert [(b.name, b.kind, b.resolve(10.0)) for b in job.budget] == [("phone", "encoder_params", 5.0)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"trian": {"epochs": 3}}, ["trian.epochs", "train.epochs"]),
        ({"train": {"epochs": "many"}}, ["train.epochs"]),
        ({"settings": {"train.epoch": 1}}, ["train.epoch", "train.epochs"]),
        ({"train": 3}, ["train"]),
        ({"epochs": 3}, ["epochs"]),
        ({"budgets": {"phone": "0.5x"}}, ["phone", "encoder_params"]),
        ({"budgets": ["0.5x"]}, ["raycomp.Budget"]),
        ({"budgets": {"phone": {"parms": 3}}}, ["budget.phone.parms", "params"]),
        ({"budgets": None}, ["budget"]),
        ({"model": None}, ["model=", "job="]),
        ({"model": 3}, ["int", "transformers model"]),
        ({"model": None, "job": "none.toml"}, ["none.toml", "does not exist"]),
        ({"tokenizer": object()}, ["some/model", "tokenizer"]),
        ({"data": [1, 2]}, ["data", "list", "DataFrame"]),
        ({"data": {"validation": "a.csv"}}, ["train", "validation"]),
        ({"data": "none.csv"}, ["none.csv", "does not exist"]),
        ({"data": pd.DataFrame({"a": ["x"], "b": ["y"]})}, ["Columns: a, b", "text"]),
        ({"data": make_sentences(4, 0), "task": {"label": "stars"}}, ["stars", "Columns: text, label"]),
        ({"data": pd.DataFrame({"text": ["a", 1], "label": [0, 1]})}, ["train data", "one type"]),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_mistakes_are_one_message(arguments: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    text = message(tmp_path, **{"data": "glue/sst2", **arguments})
    for word in words:
        assert word in text
    assert not list(tmp_path.rglob("*"))


def test_a_budget_is_checked_when_it_is_made() -> None:
    for limits in ({}, {"params": "x"}, {"params": 1, "threads": 2}, {"watts": 3}):
        with pytest.raises(raycomp.UserError):
            raycomp.Budget("phone", **limits)  # type: ignore[arg-type]
    with pytest.raises(raycomp.UserError, match="letters, digits"):
        raycomp.Budget("../up", params=1)


# Data in memory


def test_the_same_rows_give_the_same_run(tmp_path: Path) -> None:
    frame = make_sentences(20, 0)
    shuffled_index = frame.set_index(np.arange(100, 120)).assign(unused=1.5)
    dataset = datasets.Dataset.from_pandas(frame)
    jobs = [
        make_job(tmp_path / place, data=data)
        for place, data in (
            ("a", frame),
            ("a", shuffled_index),
            ("a", dataset),
            ("a", datasets.DatasetDict(train=dataset)),
            ("b", {"train": dataset}),
        )
    ]
    assert len({job.run_id for job in jobs}) == 1
    assert len({job.task.train for job in jobs}) == 2
    written = pd.read_parquet(str(jobs[0].task.train))
    pd.testing.assert_frame_equal(written, frame)


def test_other_rows_give_another_run(tmp_path: Path) -> None:
    frame = make_sentences(20, 0)
    other_text = frame.assign(text=[*frame["text"][:-1], "the end"])
    other_type = frame.assign(label=np.arange(20) % 2)
    other_number = frame.assign(label=(np.arange(20) % 2).astype(float))
    frames = (frame, other_text, other_type, other_number, frame[:-1], frame[::-1])
    assert len({make_job(tmp_path, data=data).run_id for data in frames}) == len(frames)
    with_validation = make_job(tmp_path, data={"train": frame, "validation": frame})
    assert with_validation.run_id != make_job(tmp_path, data=frame).run_id


def test_a_path_that_only_looks_like_an_input_counts_as_it_is(tmp_path: Path) -> None:
    task = {"text": ["text"], "label": "label"}
    names = ("a/train.csv", "b/train.csv", "inputs/train-1234.parquet", "x/inputs/train-1234.parquet")
    jobs = [make_job(tmp_path, data=name, task=task) for name in names]
    assert len({job.run_id for job in jobs}) == len(names)


def test_classes_of_a_dataset_keep_their_names_and_their_order(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["worse", "better"])}
    )
    rows = {"text": ["a", "b", "c"], "label": [0, 1, 0]}
    job = make_job(tmp_path, data=datasets.Dataset.from_dict(rows, features=features))
    assert job.task.labels == ["worse", "better"]
    labels = pd.read_parquet(str(job.task.train))["label"]
    assert labels.tolist() == ["worse", "better", "worse"]

    rows["label"] = [0, 1, -1]
    with pytest.raises(raycomp.UserError, match=r"1 of 3 rows of the train data lack a label.*row 2"):
        make_job(tmp_path, data=datasets.Dataset.from_dict(rows, features=features))


@pytest.mark.parametrize(
    ("columns", "text", "label"),
    [
        (["id", "text", "label"], ["text"], "label"),
        (["question", "sentence", "label", "idx"], ["question", "sentence"], "label"),
        (["stars", "review"], ["review"], "stars"),
        (["premise", "hypothesis", "labels"], ["premise", "hypothesis"], "labels"),
    ],
)
def test_columns_are_found_by_their_usual_names(
    columns: list[str], text: list[str], label: str, tmp_path: Path
) -> None:
    frame = pd.DataFrame({name: [f"{name} 1", f"{name} 2"] for name in columns})
    job = make_job(tmp_path, data=frame)
    assert (job.task.text, job.task.label) == (text, label)
    assert list(pd.read_parquet(str(job.task.train)).columns) == [*text, label]


# Models in memory


def test_a_model_in_memory_is_written_once_and_loads_again(
    model: BertForSequenceClassification, tmp_path: Path
) -> None:
    from raycomp.encoder.pretrained import load_encoder

    first = make_job(tmp_path / "a", data="glue/sst2", model=model, tokenizer=make_tokenizer())
    path = Path(first.model.name)
    written = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    again = make_job(tmp_path / "a", data="glue/sst2", model=model, tokenizer=make_tokenizer())
    elsewhere = make_job(tmp_path / "b", data="glue/sst2", model=model, tokenizer=make_tokenizer())
    assert {first.run_id, again.run_id, elsewhere.run_id} == {first.run_id}
    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == written
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    _, _, fine_tuned = load_encoder(str(path), num_labels=2, classes=("a", "b"), in_order=True)
    assert fine_tuned


def test_another_model_gives_another_run(model: BertForSequenceClassification, tmp_path: Path) -> None:
    def run_id() -> str:
        return make_job(tmp_path, data="glue/sst2", model=model, tokenizer=make_tokenizer()).run_id

    before = run_id()
    model.name_or_path = "elsewhere"
    assert run_id() == before
    with torch.no_grad():
        model.classifier.bias[0] += 1e-6
    changed = run_id()
    model.config.id2label = {0: "bad", 1: "good"}
    assert len({before, changed, run_id()}) == 3


def test_a_tokenizer_comes_from_the_pipeline_or_the_checkpoint(
    tuned_model: Path, model: BertForSequenceClassification, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, pipeline

    loaded = AutoModelForSequenceClassification.from_pretrained(tuned_model)
    by_checkpoint = make_job(tmp_path, data="glue/sst2", model=loaded)
    classify = pipeline("text-classification", model=str(tuned_model), device="cpu")
    by_pipeline = make_job(tmp_path, data="glue/sst2", model=classify)
    assert by_checkpoint.run_id == by_pipeline.run_id
    assert "tokenizer=" in message(tmp_path, data="glue/sst2", model=model)
    slow = message(tmp_path, data="glue/sst2", model=model, tokenizer=object())
    assert "fast tokenizer" in slow


# Metrics of one's own


def weigh_logits(labels: np.ndarray, logits: np.ndarray) -> float:
    return float(logits[np.arange(len(labels)), labels].mean())


def fail(labels: np.ndarray, predictions: np.ndarray) -> float:
    raise ValueError("no reason")


def test_a_metric_is_named_or_importable(tmp_path: Path) -> None:
    from sklearn.metrics import balanced_accuracy_score

    names = {
        "f1": "f1",
        balanced_accuracy_score: "sklearn.metrics._classification:balanced_accuracy_score",
    }
    jobs = [make_job(tmp_path, data="glue/sst2", metric=metric) for metric in names]
    assert [job.task.metric for job in jobs] == list(names.values())
    assert len({job.run_id for job in jobs}) == 2

    def local(labels: np.ndarray, predictions: np.ndarray) -> float:
        return 0.0

    in_main = type(weigh_logits)(weigh_logits.__code__, {"__name__": "__main__"}, "profit")
    for metric, words in (
        (local, "inside a function"),
        (lambda labels, predictions: 0.0, "lambda"),
        (in_main, "script or notebook"),
        (object(), "not a function"),
    ):
        text = message(tmp_path, data="glue/sst2", metric=metric)
        assert words in text
        assert "my_module.py" in text


def test_a_metric_gets_predictions_or_logits() -> None:
    labels = np.array([0, 1, 1])
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 1.0]], np.float32)
    names = ("sklearn.metrics:balanced_accuracy_score", f"{__name__}:weigh_logits")
    values = compute(names, labels, logits, allow_custom=True)
    assert values == {names[0]: 0.75, names[1]: 2.0}
    distance = compute(
        ["sklearn.metrics:mean_absolute_error"],
        np.array([1.0, 2.0], np.float32),
        np.array([[1.5], [2.0]], np.float32),
        allow_custom=True,
    )
    assert distance == {"sklearn.metrics:mean_absolute_error": 0.25}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:f", "no_such_module"),
        ("sklearn.metrics:no_such_metric", "no_such_metric"),
        (f"{__name__}:fail", "no reason"),
        ("numpy:cov", "numpy:cov"),
    ],
)
def test_a_metric_that_fails_is_one_message(name: str, words: str) -> None:
    labels = np.array([0, 1])
    with pytest.raises(raycomp.UserError, match=words):
        compute([name], labels, np.eye(2, dtype=np.float32), allow_custom=True)


def test_nothing_of_a_foreign_run_is_imported(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    labels, logits = np.array([0, 1]), np.eye(2, dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        with pytest.raises(raycomp.UserError, match="Unknown metric 'evil:f'"):
            compute(["evil:f"], labels, logits)
        run_dir = write_run(tmp_path / "runs", metric="evil:f")
        for split in ("validation",):
            write_array(run_dir / "predictions" / f"labels.{split}.npy", labels)
            write_array(run_dir / "predictions" / f"yoco-half.{split}.npy", logits)
        run = raycomp.open_run(run_dir)
        assert run.report().exists()
        assert run.best().figures["metric"] == "evil:f"
        assert "evil" not in sys.modules


# Searchers and hints of one's own


class FirstOnes:
    """A searcher that proposes the smallest network, whatever it is told."""

    def __init__(self, space: Any, budget: Any, seed: int) -> None:
        self.arguments = (space, budget, seed)

    def ask(self, n: int) -> list[Any]:
        return [self.arguments[0].smallest()]

    def tell(self, archs: Any, values: Any, losses: Any) -> None:
        pass


@dataclass(frozen=True)
class Distance:
    """A hint: distance between the logits of student and teacher."""

    needs_teacher = True
    needs_hidden = False
    needs_attention = False

    def loss(self, student: Any, teacher: Any, batch: Any) -> torch.Tensor:
        return (student.logits - teacher.logits).abs().sum() / batch.total


def test_searchers_and_hints_are_named_by_their_modules(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        data="glue/sst2",
        search={"searchers": ["sng", FirstOnes]},
        train={"distill": Distance},
    )
    assert job.search.searchers == ["sng", f"{__name__}:FirstOnes"]
    assert job.train.distill == f"{__name__}:Distance"
    check_references(job)
    plain = make_job(tmp_path, data="glue/sst2")
    assert plain.run_id != job.run_id
    for section in ("train", "heal"):
        settings = {section: {"distill": "no_such_module:Hint"}}
        missing = make_job(tmp_path, data="glue/sst2", **settings)
        with pytest.raises(raycomp.UserError, match=rf"{section}\.distill.*no_such_module"):
            check_references(missing)

    class Local:
        pass

    assert "search" in message(tmp_path, data="glue/sst2", search={"searchers": [Local]})
    for section in ({"search": {"searchers": ["sgn"]}}, {"train": {"distill": "hiden"}}):
        assert "'my_module:MyName'" in message(tmp_path, data="glue/sst2", **section)


def test_a_searcher_of_one_s_own_is_made_and_asked() -> None:
    class Space:
        def smallest(self) -> str:
            return "smallest"

    space: Any = Space()
    budget: Any = object()
    searcher = make_searcher(f"{__name__}:FirstOnes", space, {}, budget, 3)
    assert searcher.ask(2) == ["smallest"]
    assert searcher.arguments == (space, budget, 3)  # type: ignore[attr-defined]


def test_a_hint_of_one_s_own_joins_the_labels() -> None:
    objective = load_objective(f"{__name__}:Distance")
    assert objective.terms == ((1.0, Labels()), (1.0, Distance()))
    assert (objective.needs_teacher, objective.needs_hidden) == (True, False)
    assert tuple(DISTILLATION) == DISTILLATIONS
    for name in DISTILLATIONS:
        assert load_objective(name) is DISTILLATION[name]
    assert load_objective("raycomp.training.hints:LABELS_ONLY") is DISTILLATION["none"]
    with pytest.raises(raycomp.UserError, match="neither a hint nor an objective"):
        load_objective("builtins:list")


# A run that exists


def test_a_run_s_tables_are_frames(tmp_path: Path) -> None:
    run = raycomp.open_run(write_run(tmp_path))
    assert set(run.deployments["budget"]) >= {"half", "flops"}
    assert len(run.table("deployments", "budget == 'half'")) == 1
    assert (len(run.steps) > 0, len(run.evaluations) > 0, len(run.distribution) > 0) == (True,) * 3
    assert run.teacher["validation"]["accuracy"] == 0.84
    assert run.report().exists()
    assert run.report(tmp_path / "page.html") == tmp_path / "page.html"
    assert "half" in run._repr_html_()
    assert repr(run) == f"Run(path={run.path!r}, url=None)"


def test_best_is_the_highest_selection_score_within_the_condition(tmp_path: Path) -> None:
    run = raycomp.open_run(write_run(tmp_path))
    rows = run.deployments
    best = run.best()
    assert best.selection == rows["selection"].max()
    limit = rows["params"].median()
    small = run.best(f"params < {limit}", by="validation")
    allowed = rows[rows["params"] < limit]
    assert small.validation == allowed["validation"].max()
    assert small.figures["params"] == small.params < limit
    assert run.deployment(small.budget, method=small.method) == small
    for call, words in (
        (lambda: run.best("params < 3"), ["params < 3", "half"]),
        (lambda: run.best("parms < 3"), ["parms", "params"]),
        (lambda: run.best(by="arch"), ["arch"]),
        (lambda: run.deployment("none"), ["none", "half"]),
        (lambda: run.deployment("half", method="hat"), ["hat"]),
    ):
        with pytest.raises(raycomp.UserError) as error:
            call()
        for word in words:
            assert word in str(error.value)


def test_a_run_in_progress_opens_and_says_what_is_missing(tmp_path: Path) -> None:
    run = raycomp.open_run(begin_run(tmp_path))
    assert run.deployments.empty
    assert run.teacher == {}
    with pytest.raises(raycomp.UserError, match="not deployed a model yet"):
        run.best()
    with pytest.raises(raycomp.UserError, match="none yet"):
        run.load("half")
    with pytest.raises(raycomp.UserError, match=r"not a run directory.*both-1a2b3c4d"):
        raycomp.open_run(tmp_path / "none")


def test_a_run_of_a_url_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCOMP_WORK", str(tmp_path / "work"))
    run_dir = write_run(tmp_path / "runs")
    run = raycomp.open_run(run_dir.as_uri())
    assert run.path.is_relative_to(tmp_path / "work")
    assert len(run.deployments) == len(raycomp.open_run(run_dir).deployments)
    assert run.url == run_dir.as_uri()


# Submission


def test_what_is_in_memory_is_not_submitted(tmp_path: Path) -> None:
    for arguments in ({"data": make_sentences(4, 0)}, {"model": object(), "data": "glue/sst2"}):
        with pytest.raises(raycomp.UserError, match="in memory"):
            raycomp.submit(**{"model": "m", "budgets": BUDGETS, **arguments}, storage=str(tmp_path))


def test_a_submitted_job_is_followed_by_its_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from raycomp.runtime.cluster import submission

    submitted: list[Any] = []

    def fake_submit(work: Job, storage: str, address: str | None, *, installed: bool) -> str:
        submitted.append((work, storage, address, installed))
        return f"{work.run_id}-1"

    monkeypatch.setattr(submission, "submit", fake_submit)
    rows = [{"id": "other", "status": "FAILED"}]
    monkeypatch.setattr(submission, "list_jobs", lambda address: rows)
    monkeypatch.setattr(submission, "read_logs", lambda identity, address: f"{identity} at {address}")
    monkeypatch.setattr(submission, "stop_job", lambda identity, address: "STOPPED")
    job = raycomp.submit("m", "glue/sst2", BUDGETS, storage="/mnt/runs", address="http://head:8265")
    assert submitted[0][1:] == ("/mnt/runs", "http://head:8265", False)
    assert job.id == f"{submitted[0][0].run_id}-1"
    assert job.logs() == f"{job.id} at http://head:8265"
    assert job.stop() == "STOPPED"
    with pytest.raises(raycomp.UserError, match="does not know"):
        job.status()
    rows.append({"id": job.id, "status": "RUNNING"})
    assert job.status() == "RUNNING"


# Progress, callbacks, imports


class Recorder(raycomp.Callback):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_message(self, text: str) -> None:
        self.calls.append(text)

    def on_progress(self, part: str, done: int, total: int, figures: dict[str, Any]) -> None:
        self.calls.append((part, done, total, figures))


class Broken(raycomp.Callback):
    def on_message(self, text: str) -> None:
        raise RuntimeError("broken")


def test_callbacks_follow_and_one_that_fails_is_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    progress = SessionProgress(False, CallbackList([Broken(), recorder]))
    with caplog.at_level(logging.INFO, "raycomp"):
        progress.say("one")
        progress.say("two")
        with progress.bar("teacher") as update:
            update(3, 9, {"loss": 0.5})
    assert recorder.calls == ["one", "two", ("teacher", 3, 9, {"loss": 0.5})]
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "Broken" in warnings[0]
    assert [r.message for r in caplog.records if r.levelno == logging.INFO] == ["one", "two"]


def test_a_notebook_gets_plain_lines_on_standard_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from raycomp.api import progress as module

    monkeypatch.setattr(module, "in_notebook", lambda: True)
    progress = SessionProgress(None, CallbackList([]))
    progress.say("Resuming [bold]x")
    with progress.bar("teacher") as update:
        update(3, 9, {"loss": 0.5})
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == ["Resuming [bold]x", "teacher done in 0 s"]
    assert "\x1b" not in out
    assert "\r" not in out


def test_a_script_in_a_pipe_prints_nothing_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    progress = SessionProgress(None, CallbackList([]))
    progress.say("a notice")
    with progress.bar("teacher") as update:
        update(3, 9, {})
    assert capsys.readouterr() == ("", "")


def test_the_package_is_imported_without_what_it_does_not_need() -> None:
    code = "import sys, raycomp; print(sorted({'torch', 'ray', 'pandas', 'pydantic'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout == "[]\n"
    for name in raycomp.__all__:
        assert getattr(raycomp, name) is not None
        assert name in dir(raycomp)
    with pytest.raises(AttributeError, match="compres"):
        raycomp.compres  # noqa: B018


def test_a_callback_that_fails_twice_at_the_same_moment_is_switched_off() -> None:
    """Progress and messages come from two threads; the other one has removed it already."""

    class TwiceBroken(raycomp.Callback):
        def on_message(self, text: str) -> None:
            callbacks._callbacks.remove(self)
            raise ValueError("broken")

    callbacks = CallbackList([TwiceBroken()])
    callbacks.call("on_message", "text")
    assert callbacks._callbacks == []
