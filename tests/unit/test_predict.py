"""`raycomp predict`: the rows, the files and the labels of GLUE's server, and of other data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from raycomp.api.deployment import Deployment
from raycomp.cli import main as cli
from raycomp.config.job import Job
from raycomp.config.loader import parse_job
from raycomp.data.glue_submission import format_glue
from raycomp.data.sources import GLUE
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.storage.files import write_json
from tests.conftest import PLAIN, make_bert_config, randomise_weights

ROWS = 7


@dataclass
class FinishedRun:
    """What a prediction reads of a run."""

    job: Job
    directory: Path
    url: str | None = None

    def local_directory(self) -> Path:
        return self.directory


class Predicting(Deployment):
    """A deployment whose model was not exported."""

    model: Any
    folder: Path

    def load(self) -> Any:
        return self.model

    def load_tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.folder)


def texts(rows: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(PLAIN, int(rng.integers(3, 9)))) for _ in range(rows)]


def write_glue(folder: Path, name: str) -> None:
    """Write a GLUE task as the Hub has it: the labels of test are -1."""
    task = GLUE[name]
    splits = {"train": 60, "validation": 20, "test": ROWS}
    if name == "mnli":
        splits = {"train": 60, "validation_matched": 20, "validation_mismatched": 20,
                  "test_matched": ROWS, "test_mismatched": ROWS}  # fmt: skip
    for number, (split, rows) in enumerate(splits.items()):
        data: dict[str, Any] = {c: texts(rows, 10 * number + i) for i, c in enumerate(task.text)}
        labels = np.arange(rows) % max(1, len(task.labels)) if task.labels else np.linspace(0, 5, rows)
        data["label"] = -1 if split.startswith("test") else labels
        # Numbers that are not those of the rows: a submission repeats them.
        data["idx"] = np.arange(rows) + 100
        (folder / name).mkdir(parents=True, exist_ok=True)
        pd.DataFrame(data).to_parquet(folder / name / f"{split}.parquet")


def deployed(task: dict[str, Any], folder: Path, tiny_model: Path, outputs: int) -> Predicting:
    """Return a deployment of an untrained model, and the directory of its run."""
    job = parse_job({"task": {"max_length": 16, **task}, "model": {"name": str(tiny_model)},
                     "budget": [{"name": "half", "encoder_params": "0.5x"}]})  # fmt: skip
    context = RunContext(job, folder / "run-12345678")
    context.run_dir.mkdir()
    context.record_facts()
    write_json(context.layout.teacher_score, {"selection": {}, "validation": {}})
    torch.manual_seed(0)
    model = BertForSequenceClassification(make_bert_config(num_labels=outputs)).eval()
    randomise_weights(model)
    # Outputs around their mean: the classes of the rows then differ.
    ids = torch.randint(5, 25, (50, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.classifier.bias -= model(ids).logits.mean(0) - (2.5 if outputs == 1 else 0.0)
    run: Any = FinishedRun(job, context.run_dir)
    deployment = Predicting(run, "yoco", "half", {})
    object.__setattr__(deployment, "model", model)
    object.__setattr__(deployment, "folder", tiny_model)
    return deployment


def read(path: Path) -> tuple[list[str], list[str]]:
    """Return index and prediction of each row of a file; its first line has the column names."""
    assert path.read_text().startswith("index\tprediction\n")
    rows = pd.read_csv(path, sep="\t", dtype=str)
    return rows["index"].tolist(), rows["prediction"].tolist()


@pytest.mark.parametrize(
    ("name", "outputs", "file"),
    [("cola", 2, "CoLA.tsv"), ("mrpc", 2, "MRPC.tsv"), ("rte", 2, "RTE.tsv"), ("stsb", 1, "STS-B.tsv")],
)
def test_a_glue_task_gets_its_official_file(
    name: str, outputs: int, file: str, tiny_model: Path, tmp_path: Path
) -> None:
    write_glue(tmp_path, name)
    task = {"name": f"glue/{name}", "folder": str(tmp_path)}
    deployment = deployed(task, tmp_path, tiny_model, outputs)
    (path,) = deployment.predict("test")
    assert path == deployment.run.local_directory() / "predicted" / "yoco-half" / file
    index, predictions = read(path)
    assert index == [str(number) for number in range(100, 100 + ROWS)]

    # The predictions are those of the model on each row, computed one by one.
    frame = pd.read_parquet(tmp_path / name / "test.parquet")
    tokenizer = deployment.load_tokenizer()
    for row, prediction in zip(frame.to_dict("records"), predictions, strict=True):
        pair = [str(row[column]) for column in GLUE[name].text]
        inputs = tokenizer(*pair, truncation="longest_first", max_length=16, return_tensors="pt")
        logits = deployment.model(**inputs).logits[0].detach()
        if name == "stsb":
            assert float(prediction) == pytest.approx(float(logits[0].clip(0, 5)), abs=2e-3)
        else:
            number = int(logits.argmax())
            assert prediction == (GLUE[name].labels[number] if name == "rte" else str(number))
    assert len(set(predictions)) > 1


def test_mnli_has_three_files_where_the_diagnostic_rows_exist(tiny_model: Path, tmp_path: Path) -> None:
    write_glue(tmp_path, "mnli")
    (tmp_path / "ax").mkdir()
    ax = {"premise": texts(4, 90), "hypothesis": texts(4, 91), "label": [-1] * 4, "idx": range(4)}
    pd.DataFrame(ax).to_parquet(tmp_path / "ax" / "test-00000-of-00001.parquet")
    deployment = deployed({"name": "glue/mnli", "folder": str(tmp_path)}, tmp_path, tiny_model, 3)
    paths = deployment.predict("test", out=tmp_path / "out")
    assert [path.name for path in paths] == ["MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"]
    for path, rows in zip(paths, (ROWS, ROWS, 4), strict=True):
        index, predictions = read(path)
        assert len(index) == rows
        assert set(predictions) <= set(GLUE["mnli"].labels)


def test_glue_s_own_archive_is_read_too(tiny_model: Path, tmp_path: Path) -> None:
    """test.tsv of CoLA has a header, which its training file lacks."""
    write_glue(tmp_path, "cola")
    (tmp_path / "cola" / "test.parquet").unlink()
    lines = ["index\tsentence", *(f"{i}\t{text}" for i, text in enumerate(texts(3, 5)))]
    (tmp_path / "cola" / "test.tsv").write_text("\n".join(lines) + "\n")
    deployment = deployed({"name": "glue/cola", "folder": str(tmp_path)}, tmp_path, tiny_model, 2)
    assert read(deployment.predict()[0])[0] == ["0", "1", "2"]


def test_a_file_without_labels_gets_class_names(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    task = {"train": str(tiny_data / "train.csv"), "text": ["text"], "label": "label"}
    deployment = deployed(task, tmp_path, tiny_model, 2)
    deployment.model.config.id2label = {0: "bad", 1: "good\tor so"}
    new = tmp_path / "new.csv"
    pd.DataFrame({"text": texts(5, 3)}).to_csv(new, index=False)
    (path,) = deployment.predict(data=new)
    assert path.name == "new.tsv"
    rows = pd.read_csv(path, sep="\t")
    assert rows["index"].tolist() == [0, 1, 2, 3, 4]
    # A tab inside of a name does not end its field.
    assert set(rows["prediction"]) <= {"bad", "good\tor so"}

    # Splits of the run are predicted too.
    assert len(read(deployment.predict("selection")[0])[0]) > 0


def test_what_does_not_exist_is_one_message(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    task = {"train": str(tiny_data / "train.csv"), "text": ["text"], "label": "label"}
    deployment = deployed(task, tmp_path, tiny_model, 2)
    with pytest.raises(UserError, match=r"lacks the split 'test'.*selection, validation.*--data"):
        deployment.predict("test")
    with pytest.raises(UserError, match="does not exist"):
        deployment.predict(data=tmp_path / "none.csv")
    other = tmp_path / "other.csv"
    other.write_text("txt\na\n")
    with pytest.raises(UserError, match=r"lacks the column 'text'.* 'txt'"):
        deployment.predict(data=other)
    empty = tmp_path / "empty.csv"
    pd.DataFrame({"text": ["fine", None]}).to_csv(empty, index=False)
    with pytest.raises(UserError, match="the text is missing"):
        deployment.predict(data=empty)
    assert not (deployment.run.local_directory() / "predicted").exists()


def test_a_glue_folder_without_test_rows_is_named(tiny_model: Path, tmp_path: Path) -> None:
    write_glue(tmp_path, "rte")
    (tmp_path / "rte" / "test.parquet").unlink()
    deployment = deployed({"name": "glue/rte", "folder": str(tmp_path)}, tmp_path, tiny_model, 2)
    with pytest.raises(UserError, match=r"lacks the split test.*test\.parquet"):
        deployment.predict("test")
    with pytest.raises(UserError, match=r"splits selection, validation, test"):
        deployment.predict("tset")


def test_scores_of_stsb_stay_in_their_range() -> None:
    assert format_glue("glue/stsb", np.array([[-1.0], [2.34567], [9.0]])) == ["0.000", "2.346", "5.000"]


def test_the_command_prints_the_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls: list[tuple[Any, ...]] = []

    class Opened:
        def deployment(self, budget: str) -> Opened:
            calls.append((budget,))
            return self

        def predict(self, split: str, *, data: Any, out: Any, say: Any) -> list[Path]:
            calls.append((split, data, out))
            say("t.csv: 2 rows were left out.")
            return [tmp_path / "MRPC.tsv"]

    monkeypatch.setattr("raycomp.api.run.open_run", lambda place: Opened())
    arguments = ["predict", "runs/x-12345678", "--budget", "half", "--out", "o", "--json"]
    monkeypatch.setattr("sys.argv", ["raycomp", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert calls == [("half",), ("test", None, Path("o"))]
    printed = capsys.readouterr()
    assert json.loads(printed.out) == [str(tmp_path / "MRPC.tsv")]
    # A script reads the output; the note is for people.
    assert printed.err == "Note: t.csv: 2 rows were left out.\n"


@pytest.mark.parametrize("name", ["cola", "mnli"])
def test_a_file_with_the_name_of_a_test_split_is_the_user_s(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    """It neither replaces a submission to GLUE, nor is it looked up among GLUE's files."""
    write_glue(tmp_path, name)
    labels = len(GLUE[name].labels)
    task = {"name": f"glue/{name}", "folder": str(tmp_path)}
    deployment = deployed(task, tmp_path, tiny_model, labels)
    deployment.model.config.id2label = {number: f"class {number}" for number in range(labels)}
    submissions = {path: path.read_bytes() for path in deployment.predict("test")}

    for stem in ("test", "test_new", "ax"):
        data = tmp_path / f"{stem}.csv"
        pd.DataFrame({column: texts(4, 3) for column in GLUE[name].text}).to_csv(data, index=False)
        (path,) = deployment.predict(data=data)
        assert path.name == f"{stem}.tsv"
        assert set(read(path)[1]) <= set(deployment.model.config.id2label.values())
    assert {path: path.read_bytes() for path in submissions} == submissions


def test_a_batch_is_padded_with_the_token_of_the_deployed_model(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut vocabulary has another id for it than the vocabulary of the run."""
    pad_ids: list[int] = []

    def predict_logits(forward: Any, tokens: Any, *, pad_id: int, **options: Any) -> np.ndarray:
        pad_ids.append(pad_id)
        return np.zeros((len(tokens), 2), np.float32)

    monkeypatch.setattr("raycomp.training.evaluation.predict_logits", predict_logits)
    task = {"train": str(tiny_data / "train.csv"), "text": ["text"], "label": "label"}
    deployment = deployed(task, tmp_path, tiny_model, 2)
    deployment.model.config.pad_token_id = 3
    deployment.predict("selection")
    assert pad_ids == [3]
