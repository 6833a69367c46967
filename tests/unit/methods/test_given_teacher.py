"""A given teacher is scored before anything is trained: order of its outputs, chance, tokens, units."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from raycomp.config.loader import parse_job
from raycomp.data.overview import Overview
from raycomp.errors import UserError
from raycomp.methods import given_teacher
from raycomp.methods.context import RunContext
from raycomp.methods.given_teacher import (
    check_given_teacher,
    describe_outputs,
    score_given_teacher,
)
from raycomp.methods.teacher_overview import describe_teacher
from raycomp.runtime.pipeline.preflight import check
from tests.conftest import make_bert_config, make_sentences, make_tiny_job, make_tokenizer

Job = dict[str, Any]


@pytest.fixture
def folder(tuned_model: Path, tmp_path: Path) -> Path:
    """A copy of the fine-tuned model; output 0 is "bad", output 1 is "good"."""
    shutil.copytree(tuned_model, tmp_path / "model")
    return tmp_path / "model"


def swap_outputs(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def name_outputs(folder: Path, *names: str) -> None:
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    settings["id2label"] = {str(i): name for i, name in enumerate(names)}
    settings["label2id"] = {name: i for i, name in enumerate(names)}
    path.write_text(json.dumps(settings))


def write_data(folder: Path, rows: int, names: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for split, seed in (("train", 0), ("validation", 1)):
        frame = make_sentences(rows, seed)
        frame["label"] = frame["label"].map(names or {"bad": "bad", "good": "good"})
        frame.to_csv(folder / f"{split}.csv", index=False)
    return folder


def context_of(model: Path, data: Path, tmp_path: Path, **sections: Any) -> RunContext:
    job = make_tiny_job(model, data)
    job["task"]["allow_shared_rows"] = True
    for section, settings in sections.items():
        job[section] = {**job.get(section, {}), **settings}
    parsed = parse_job(copy.deepcopy(job))
    return RunContext(parsed, tmp_path / "runs" / parsed.run_id)


def refusal(context: RunContext) -> str:
    with pytest.raises(UserError) as caught:
        check(context)
    assert not context.run_dir.exists()
    return str(caught.value)


def test_a_teacher_that_knows_its_task_is_used(
    tuned_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    context = context_of(tuned_model, tiny_data, tmp_path)
    check(context)
    teacher = score_given_teacher(context)
    assert teacher is not None
    assert teacher.agreement is not None
    assert teacher.agreement.accuracy > 0.85
    assert teacher.agreement.is_above_chance
    assert describe_outputs(teacher) == "bad = output 0 (LABEL_0), good = output 1 (LABEL_1)"
    assert not context.run_dir.exists()


@pytest.mark.parametrize("rows", [24, 60, 200])
def test_outputs_in_another_order_stop_the_run(rows: int, folder: Path, tmp_path: Path) -> None:
    swap_outputs(folder)
    data = write_data(tmp_path / "data", rows)
    message = refusal(context_of(folder, data, tmp_path))
    assert "another order than assumed (bad = output 0 (LABEL_0), good = output 1 (LABEL_1))" in message
    assert 'Set task.labels = ["good", "bad"]' in message
    # With the order that the message names the run is allowed, and the teacher knows its task.
    fixed = context_of(folder, data, tmp_path, task={"labels": ["good", "bad"]})
    check(fixed)
    teacher = score_given_teacher(fixed)
    assert teacher is not None
    assert teacher.agreement is not None
    assert teacher.agreement.accuracy > 0.85


def test_numbers_are_not_trusted_to_be_the_outputs(folder: Path, tmp_path: Path) -> None:
    """The data has 1 for good; the model calls its output 0 positive, and is fine-tuned so."""
    swap_outputs(folder)
    name_outputs(folder, "POSITIVE", "NEGATIVE")
    data = write_data(tmp_path / "data", 80, {"bad": 0, "good": 1})
    assert 'Set task.labels = ["1", "0"]' in refusal(context_of(folder, data, tmp_path))


def test_names_that_are_wrong_are_to_be_corrected(folder: Path, tmp_path: Path) -> None:
    """Names match before the order does: task.labels could not help."""
    name_outputs(folder, "good", "bad")
    data = write_data(tmp_path / "data", 80)
    message = refusal(context_of(folder, data, tmp_path))
    assert 'the outputs are ["bad", "good"]' in message
    assert "Correct id2label" in message
    assert "Set task.labels" not in message


def test_names_that_are_right_need_no_order(folder: Path, tmp_path: Path) -> None:
    swap_outputs(folder)
    name_outputs(folder, "Good", "BAD")
    context = context_of(folder, write_data(tmp_path / "data", 80), tmp_path)
    check(context)
    teacher = score_given_teacher(context)
    assert teacher is not None
    assert describe_outputs(teacher) == "bad = output 1 (BAD), good = output 0 (Good)"


def test_eleven_numbers_as_text_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(make_bert_config(num_labels=11))
    model.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    frame = make_sentences(132, 0)
    frame["label"] = [f"c{number % 11}" for number in range(132)]
    (tmp_path / "data").mkdir()
    frame.to_csv(tmp_path / "data" / "train.csv", index=False)
    frame.to_csv(tmp_path / "data" / "validation.csv", index=False)
    context = context_of(tmp_path / "model", tmp_path / "data", tmp_path)
    classes = context.task.label_names
    assert classes[2] == "c10"

    def predict(context: RunContext, checkpoint: Any, rows: np.ndarray) -> np.ndarray:
        numbers = [int(classes[label][1:]) for label in context.task.train.labels[rows]]
        return np.eye(11)[numbers]

    name_outputs(tmp_path / "model", *(f"LABEL_{number}" for number in range(11)))
    monkeypatch.setattr(given_teacher, "_predict", predict)
    expected = ", ".join(f'"c{number}"' for number in range(11))
    assert f"Set task.labels = [{expected}]" in refusal(context)


def forget(folder: Path) -> None:
    """Replace the classifier by numbers at random."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["classifier.weight"] = torch.zeros(2, 32)
    tensors["classifier.bias"] = torch.tensor([0.1, 0.0])
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_teacher_near_chance_stops_the_run(folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    forget(folder)
    message = refusal(context_of(folder, tiny_data, tmp_path))
    for words in ("does not know this task", "0.50 (98% interval", "chance gives 0.50", "'train'"):
        assert words in message
    check(context_of(folder, tiny_data, tmp_path, teacher={"mode": "train"}))
    check(context_of(folder, tiny_data, tmp_path, teacher={"mode": "as-is"}))


def test_few_rows_never_stop_a_run(folder: Path, tmp_path: Path) -> None:
    forget(folder)
    check(context_of(folder, write_data(tmp_path / "data", 24), tmp_path, train={"batch_size": 8}))


def test_a_wrong_order_stops_a_teacher_as_it_is_too(
    folder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    swap_outputs(folder)
    message = refusal(context_of(folder, tiny_data, tmp_path, teacher={"mode": "as-is"}))
    assert "Set task.labels" in message


def test_a_rare_class_is_not_chance(tuned_model: Path, tmp_path: Path) -> None:
    """95% of the rows are bad: the accuracy is about that of a constant answer, the recall is not."""
    frame = make_sentences(600, 0)
    rare = frame[frame["label"] == "good"].head(15)
    frame = pd.concat([frame[frame["label"] == "bad"], rare])
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        frame.to_csv(tmp_path / "data" / f"{split}.csv", index=False)
    check(context_of(tuned_model, tmp_path / "data", tmp_path))


def test_a_model_that_is_trained_is_not_scored(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    context = context_of(tiny_model, tiny_data, tmp_path)
    check(context)
    assert score_given_teacher(context) is None


def test_a_run_with_a_teacher_is_not_scored_again(folder: Path, tiny_data: Path, tmp_path: Path) -> None:
    """A run of an older version resumes, whatever its teacher is."""
    context = context_of(folder, tiny_data, tmp_path)
    context.layout.teacher_network.parent.mkdir(parents=True)
    context.layout.teacher_network.touch()
    swap_outputs(folder)
    assert score_given_teacher(context) is None


def test_a_run_that_began_without_the_classifier_resumes_so(tiny_data: Path, tmp_path: Path) -> None:
    """Older versions dropped a classifier that does not fit."""
    torch.manual_seed(0)
    BertForSequenceClassification(make_bert_config(num_labels=3)).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    context = context_of(tmp_path / "model", tiny_data, tmp_path)
    with pytest.raises(UserError, match="3 outputs"):
        _ = context.facts
    begun = context_of(tmp_path / "model", tiny_data, tmp_path, teacher={"mode": "train"})
    context.run_dir.mkdir(parents=True)
    begun.layout.facts.parent.mkdir(parents=True, exist_ok=True)
    begun.record_facts()
    shutil.copyfile(begun.layout.facts, context.layout.facts)
    resumed = context_of(tmp_path / "model", tiny_data, tmp_path)
    assert not resumed.fine_tuned
    assert resumed.network().classifier.weight.shape == (2, 32)


@pytest.mark.parametrize(
    ("text", "words"),
    [("这部电影很好看", "does not know the words"), ("zzz qqq xxx", "100% of the tokens")],
)
def test_texts_that_the_tokenizer_does_not_know_are_refused(
    text: str, words: str, tiny_model: Path, tmp_path: Path
) -> None:
    frame = make_sentences(60, 0)
    frame["text"] = [f"{text} {number}" for number in range(60)]
    (tmp_path / "data").mkdir()
    frame.to_csv(tmp_path / "data" / "train.csv", index=False)
    frame.to_csv(tmp_path / "data" / "validation.csv", index=False)
    assert words in refusal(context_of(tiny_model, tmp_path / "data", tmp_path))


def test_some_unknown_words_are_allowed(tiny_model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 60)
    frame = pd.read_csv(data / "train.csv")
    frame.loc[:9, "text"] = "the film was zzz"
    frame.to_csv(data / "train.csv", index=False)
    check(context_of(tiny_model, data, tmp_path))


def text_of(overview: Overview) -> dict[str, str]:
    return {row.title: row.text for row in overview.rows}


def test_the_overview_names_score_chance_and_outputs(
    tuned_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    overview = describe_teacher(context_of(tuned_model, tiny_data, tmp_path))
    rows = text_of(overview)
    for words in ("as it is: accuracy 1.000 on 128 training rows (95% interval", "largest class 0.5"):
        assert words in rows["teacher"]
    assert rows["outputs"] == (
        "bad = output 0 (LABEL_0), good = output 1 (LABEL_1); assigned by their order"
    )
    assert overview.warnings == ()
    assert overview.figures["teacher"]["outputs"] == {"bad": 0, "good": 1}
    json.dumps(overview.to_json())


def test_the_overview_warns_of_what_does_not_stop_a_run(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    forget(folder)
    data = write_data(tmp_path / "data", 24)
    overview = describe_teacher(context_of(folder, data, tmp_path))
    assert "do not show that" in overview.warnings[0]
    assert "better than chance (mean recall 0.50, chance 0.50)" in overview.warnings[0]
    trained = text_of(describe_teacher(context_of(tiny_model, data, tmp_path)))
    assert trained["teacher"].endswith(
        "with a new classifier for 2 epochs (2 steps), because it lacks a classifier"
    )


def test_the_overview_warns_of_other_units(tmp_path: Path) -> None:
    """A similarity model that says 0 to 1 where the labels are 0 to 5."""
    write_regressor(tmp_path / "model", 0.5, 0.1)
    frame = make_sentences(60, 0)
    frame["label"] = np.where(frame["label"] == "good", 4.5, 1.0) + 0.01 * np.arange(60)
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        frame.to_csv(tmp_path / "data" / f"{split}.csv", index=False)
    context = context_of(tmp_path / "model", tmp_path / "data", tmp_path, task={"kind": "regression"})
    overview = describe_teacher(context)
    assert "different units" in overview.warnings[0]
    assert "Pearson correlation" in text_of(overview)["teacher"]


def test_a_pair_needs_a_first_token_too(tmp_path: Path) -> None:
    from tokenizers import processors

    torch.manual_seed(0)
    BertForSequenceClassification(make_bert_config(num_labels=2)).save_pretrained(tmp_path / "model")
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="$A $B", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save_pretrained(tmp_path / "model")
    frame = make_sentences(60, 0).assign(other="the film")
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        frame.to_csv(tmp_path / "data" / f"{split}.csv", index=False)
    context = context_of(
        tmp_path / "model", tmp_path / "data", tmp_path, task={"text": ["text", "other"]}
    )
    assert "in front of a pair of texts" in refusal(context)


def write_regressor(folder: Path, mean: float, deviation: float) -> None:
    """A regression model whose outputs have about this mean and deviation."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(make_bert_config(num_labels=1, problem_type="regression"))
    with torch.no_grad():
        model.classifier.weight *= 100 * deviation
        model.classifier.bias.fill_(mean)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def test_a_regression_model_is_scored_in_the_users_units(tmp_path: Path) -> None:
    write_regressor(tmp_path / "model", 200_000, 1_000)
    frame = make_sentences(120, 0)
    frame["label"] = np.where(frame["label"] == "good", 240_000, 180_000) + 137 * np.arange(120)
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        frame.to_csv(tmp_path / "data" / f"{split}.csv", index=False)
    context = context_of(tmp_path / "model", tmp_path / "data", tmp_path, task={"kind": "regression"})
    check(context)
    teacher = score_given_teacher(context)
    assert teacher is not None
    assert teacher.agreement is None
    assert teacher.correlation is not None
    check_given_teacher(teacher, "auto")

    theirs = BertForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    texts = context.task.train.text_a
    with torch.no_grad():
        tokens = context.tokenizer(texts, padding=True, return_tensors="pt")
        expected = theirs(**tokens).logits[:, 0]
    rows = np.random.default_rng(context.job.run.seed).permutation(len(texts))[: given_teacher.FIRST_ROWS]
    assert teacher.predicted_mean == pytest.approx(float(expected[rows].mean()), rel=1e-5)
    assert teacher.predicted_deviation == pytest.approx(
        float(expected[rows].std(unbiased=False)), rel=1e-2
    )
