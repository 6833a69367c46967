"""AdaBERT on real Ray: one text, two texts, a sweep, and a run that goes on."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from raycomp.config.loader import parse_job
from raycomp.data.batches import collate
from raycomp.errors import UserError
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.structure import Structure
from raycomp.methods.adabert.trials import list_trials, load_child
from raycomp.runtime.pipeline.reexport import export_budget
from raycomp.storage.tables import read_table
from raycomp.storage.tensors import load_tensors
from tests.conftest import make_sentences
from tests.integration.conftest import run_silently

SMALL = {
    "layers": 3, "width": 16, "embedding": 8, "epochs": 1, "child_epochs": 1, "batch_size": 32,
    "candidates": 2, "finalists": 2, "finalist_epochs": 0.2,
}  # fmt: skip


@pytest.fixture
def cnn_job(tiny_job: dict[str, Any], tuned_model: Path) -> dict[str, Any]:
    job = copy.deepcopy(tiny_job)
    job["model"]["name"] = str(tuned_model)  # a teacher that needs no training
    job["run"] = {"name": "cnn", "methods": ["adabert"]}
    job["adabert"] = dict(SMALL)
    job["augment"] = {"copies": 2, "candidates": 3}
    return job


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_a_cnn_is_searched_compiled_and_deployed(cnn_job: dict[str, Any], storage: Path) -> None:
    job = parse_job(cnn_job)
    run_dir = run_silently(cnn_job, storage)
    row = read_table(run_dir, "deployments").iloc[0]
    assert row["method"] == "adabert"
    assert row["parity"] < 1e-5
    structure = Structure.from_json(row["arch"])
    assert 1 <= structure.layers <= 3
    folder = run_dir / row["export"]
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
    assert sum(p.numel() for p in loaded.parameters()) == row["params"]
    data = DistillationData(job, run_dir, method="adabert")
    tokens = data.tokens("validation")
    batch = collate(tokens, np.arange(len(tokens)), data.pad_id)
    child = load_child(data, list_trials(job)[0])
    with torch.no_grad():
        got = loaded(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        want = child(batch.input_ids, batch.attention_mask)[0]
    assert (got - want).abs().max() < 1e-5
    found = float((got.argmax(1).numpy() == np.asarray(tokens.labels)).mean())
    assert row["validation"] == pytest.approx(found)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        assert loaded(**tokenizer("the film was fine", return_tensors="pt")).logits.shape == (1, 2)
        long = "film " * 600
        cut = tokenizer(long, return_tensors="pt", truncation=True)
        assert cut["input_ids"].shape[1] == job.task.max_length
        assert loaded(**cut).logits.shape == (1, 2)
        with pytest.raises(ValueError, match=f"this model reads at most {job.task.max_length}. Truncate"):
            loaded(**tokenizer(long, return_tensors="pt"))
    ElementTree.fromstring((folder / "structure.svg").read_text())
    steps = read_table(run_dir, "steps")
    trial = list_trials(job)[0].name
    trainings = {f"adabert-search.{trial}", f"adabert-round.{trial}-r0", f"adabert-child.{trial}"}
    assert set(steps["training"]) == trainings
    _candidates_are_recorded(run_dir, row)
    theta = read_table(run_dir, "distribution")
    sums = theta.groupby(["step", "variable"])["probability"].sum()
    assert np.allclose(sums, 1)
    assert set(theta["variable"]) == {"layers", *(v for v in theta["variable"] if "edge" in v)}
    # the teacher's answers are those of the teacher, row by row
    answers, text = data.teacher_outputs, data.augmented
    train = len(data.task.train)
    assert train < len(text) <= 3 * train
    tokens = data.augmented_tokens
    some = np.array([0, 5, train, len(text) - 1])
    batch = collate(tokens, some, data.pad_id)
    with torch.no_grad():
        said = data.teacher().eval()(batch, None).logits
    torch.testing.assert_close(answers.rows(some)[0], said, atol=1e-4, rtol=1e-4)
    assert answers.probes.shape == (len(text), 3, 2)
    again = export_budget(run_dir, row["budget"], storage / "again")
    assert again["params"] == row["params"]
    before = read_table(run_dir, "evaluations")
    assert run_silently(cnn_job, storage) == run_dir
    pd.testing.assert_frame_equal(before, read_table(run_dir, "evaluations"))
    _only_what_is_missing_is_done_again(cnn_job, run_dir)


def _candidates_are_recorded(run_dir: Path, deployed: pd.Series) -> None:
    """Five candidates, two finalists and the child have a row, and the entropy has its noise band."""
    scored = read_table(run_dir, "evaluations")
    counts = scored["weights"].fillna("own").value_counts().to_dict()
    assert counts == {"inherited": 5, "finalist": 2, "own": 1}
    assert deployed["evaluations"] == 7
    assert deployed["arch"] in set(scored[scored["weights"] == "finalist"]["arch"])
    steps = read_table(run_dir, "steps")
    search = steps[steps["training"].str.startswith("adabert-search")].sort_values("step")
    assert search["noise_low"].isna().tolist()[0]
    assert search["noise_low"].iloc[-1] < search["noise_high"].iloc[-1] <= 1


def _only_what_is_missing_is_done_again(cnn_job: dict[str, Any], run_dir: Path) -> None:
    folder = run_dir / "adabert" / list_trials(parse_job(cnn_job))[0].name
    before = load_tensors(folder / "child.safetensors")
    kept = [run_dir / "adabert" / "probes.npy", folder / "parent.safetensors"]
    times = [path.stat().st_mtime_ns for path in kept]
    for path in ("child.safetensors", "outcome.json"):
        (folder / path).unlink()
    (run_dir / "adabert" / "deployed.json").unlink()
    run_silently(cnn_job, run_dir.parent)
    after = load_tensors(folder / "child.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert times == [path.stat().st_mtime_ns for path in kept]
    assert len(read_table(run_dir, "deployments")) == 1


@pytest.mark.slow
def test_two_texts_a_sweep_and_both_methods(cnn_job: dict[str, Any], tmp_path: Path) -> None:
    for name, rows, seed in (("train", 120, 0), ("validation", 40, 1)):
        first = make_sentences(rows, seed)
        second = make_sentences(rows, seed + 9).sample(frac=1, random_state=seed, ignore_index=True)
        pair = pd.DataFrame({"a": first["text"], "b": second["text"]})
        pair["label"] = np.where(first["label"] == second["label"], "same", "other")
        pair.to_csv(tmp_path / f"{name}.csv", index=False)
    cnn_job["task"] |= {
        "train": str(tmp_path / "train.csv"),
        "validation": str(tmp_path / "validation.csv"),
        "text": ["a", "b"],
    }
    # The fine-tuned classifier does not know pairs, and what the networks learn is not checked here.
    cnn_job["teacher"]["mode"] = "as-is"
    cnn_job["run"]["methods"] = ["yoco", "adabert"]
    cnn_job["adabert"] |= {"beta": [0, 8], "child_epochs": 0}
    cnn_job["search"] = {"evaluations": 4, "batch": 2}
    del cnn_job["budget"][1]
    cnn_job["augment"]["copies"] = 0
    run_dir = run_silently(cnn_job, tmp_path / "runs")
    rows = read_table(run_dir, "deployments")
    assert rows.groupby("method").size().to_dict() == {"adabert": 2, "yoco": 1}
    cnn = rows[rows["method"] == "adabert"]
    assert sorted(cnn["budget"]) == ["beta0-gamma0_8-k3", "beta8-gamma0_8-k3"]
    assert (cnn["parity"] < 1e-5).all()
    assert cnn["teacher_validation"].nunique() == 1
    scored = read_table(run_dir, "evaluations")
    assert ((scored["method"] == "adabert") & scored["weights"].isna()).sum() == 2
    config = json.loads((run_dir / cnn.iloc[0]["export"] / "config.json").read_text())
    assert config["pair"] is config["exact_match"] is True


@pytest.mark.slow
def test_one_and_two_workers_draw_the_same_structures(cnn_job: dict[str, Any], tmp_path: Path) -> None:
    cnn_job["task"]["limit"] = 64
    cnn_job["adabert"]["child_epochs"] = 0
    found = []
    for workers in (1, 2):
        cnn_job["train"] |= {"workers": workers, "cpus": 1}
        run_dir = run_silently(cnn_job, tmp_path / f"w{workers}")
        steps = read_table(run_dir, "steps")
        search = steps[steps["training"].str.startswith("adabert-search")].sort_values("step")
        found.append((search["loss"].to_numpy(), search["entropy"].to_numpy()))
    (one, entropy), (two, other) = found
    assert len(one) == len(two) == 2
    # normalisation sees each worker's own rows, so losses are near and not equal
    np.testing.assert_allclose(one[0], two[0], atol=0.1)
    np.testing.assert_allclose(entropy, other, atol=1e-3)


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("adabert", "gamma", 1.5, "must be from 0 to 1"),
        ("adabert", "layers", 0, "must be from 1 to 64"),
        ("adabert", "operations", ["zero"], "at least one operation other than"),
        ("adabert", "operations", ["conv"], "without duplicates of std_conv_3"),
        ("augment", "method", "mlm", "lacks a masked-language-model head"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_trained(
    cnn_job: dict[str, Any], tmp_path: Path, section: str, key: str, value: object, words: str
) -> None:
    cnn_job[section][key] = value
    with pytest.raises(UserError, match=words):
        run_silently(cnn_job, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_empty_text_is_named(cnn_job: dict[str, Any], tmp_path: Path) -> None:
    frame = make_sentences(60, 0)
    frame.loc[7, "text"] = "  "
    frame.to_csv(tmp_path / "train.csv", index=False)
    cnn_job["task"]["train"] = str(tmp_path / "train.csv")
    with pytest.raises(UserError, match="the text is empty"):
        run_silently(cnn_job, tmp_path / "runs")
