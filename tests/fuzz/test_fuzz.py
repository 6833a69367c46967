"""Thousands of inputs that nobody would write: each is read, or refused with a message, in time.

`make fuzz` tries 22,000 of them; the tests as such a few hundred, always the same.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycomp.config.loader import load_job, parse_job
from raycomp.config.task import TaskSettings
from raycomp.data.overview import describe_task
from raycomp.data.tasks import load_task
from raycomp.encoder.cost import EncoderShape
from raycomp.encoder.pretrained import load_encoder
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.plan import build_sampler, train_plan
from raycomp.report import load_tables, query
from raycomp.runtime.pipeline.preflight import check
from raycomp.search.budget import cheapest_architecture
from raycomp.search.setup import SearchSetup
from raycomp.search.space import SearchSpace
from raycomp.storage.schemas import SCHEMAS
from raycomp.storage.tables import part_files, read_table
from tests.conftest import make_sentences
from tests.fuzz.conftest import examples, tried
from tests.fuzz.mutations import TEXTS, VALUES, mutated_bytes, mutated_value, toml
from tests.unit.invented_device import make_table
from tests.unit.report.run_factory import begin_run, finish_run

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(3000)]
ROOT = Path(__file__).parents[2]
SHAPE = EncoderShape(
    vocab_size=20, hidden_size=32, embedding_size=32, head_size=8, layer_heads=(4,) * 3,
    layer_ffn=(64,) * 3, max_position_embeddings=40, type_vocab_size=2, num_labels=2,
)  # fmt: skip
JOB: dict[str, Any] = {
    "run": {"name": "x", "seed": 1, "methods": ["yoco"]},
    "task": {"name": "demo/polarity", "max_length": 16, "selection": 0.1},
    "model": {"name": "demo/minilm-l6"},
    "teacher": {"epochs": 1.0, "mode": "auto"},
    "space": {"depth": [1, 2, 3], "heads": [1, 2, 4], "ffn": [16, 32, 64], "plain": False},
    "train": {"steps": 3, "batch_size": 16, "precision": "fp32", "samples": 2, "epochs": [1.0] * 7},
    "search": {"evaluations": 12, "batch": 4, "seeds": [0], "alpha": 2.0},
    "augment": {"copies": 1},
    "adabert": {"layers": [2, 3], "beta": 4.0, "operations": ["skip", "zero"]},
    "budget": [
        {"name": "half", "encoder_params": "0.5x"},
        {"name": "b", "flops": 1e6, "params": "0.9x"},
        {"name": "c", "size_mb": 1.0, "percentile": 95, "runtime": "torch", "threads": 1, "length": 16},
    ],
}
TITLES = {"text": "text", "label": "label"}
LABELS = st.one_of(
    VALUES,
    st.sampled_from([
        "1", "1.0", " 1", "+1", "-1", "01", "1.10", "1_1", "1e400", "nan", "inf", "-0", "true", "True",
        "", " ", "a", "A", "a ", "\u200b", "\ufeff", "２", "٣", '"', '"a', '\\"', "2020-01-01", 0, 1, 2,
        -1, 0.5, 1e308, True, None,
    ]),
)  # fmt: skip
READY = [p.read_bytes() for p in sorted((ROOT / "jobs").glob("*.toml"))]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One folder for all inputs: hypothesis calls a test many times."""
    made = Path(tempfile.mkdtemp())
    yield made
    shutil.rmtree(made)


def read_job(path: Path) -> None:
    """What `plan` and `run` do with a job before they look at data."""
    job = load_job(path)
    assert job.run_id.replace("-", "").replace("_", "").isalnum()
    place = SearchSetup(job, path.parent, SHAPE)
    build_sampler(job, train_plan(job, place.space, SHAPE, 500)).ask(0)
    for budget in job.budget:
        place.limit(budget)
        cheapest_architecture(place.space, place.budget(budget).cost)


@given(value=mutated_value(JOB))
@examples(0.15)
def test_job_files_with_other_values(value: Any, folder: Path) -> None:
    (folder / "job.toml").write_bytes(toml(value).encode("utf-8", "surrogatepass"))
    tried("job files", lambda: read_job(folder / "job.toml"))


@given(data=st.sampled_from(READY).flatmap(mutated_bytes))
@examples(0.35)
def test_job_files_with_other_bytes(data: bytes, folder: Path) -> None:
    (folder / "job.toml").write_bytes(data)
    tried("job files", lambda: read_job(folder / "job.toml"))


@given(value=st.dictionaries(st.sampled_from([*JOB, "x", "é"]), VALUES, max_size=4), override=st.text())
@examples(0.15)
def test_random_toml_and_overrides(value: Any, override: str, folder: Path) -> None:
    (folder / "job.toml").write_bytes(toml(value).encode("utf-8", "surrogatepass"))
    tried("job files", lambda: load_job(folder / "job.toml", [f"train.epochs={override}", override]))


@pytest.fixture(scope="module")
def profile(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A profile of a device for the space of JOB, and its content."""
    table = make_table(SearchSpace(3, (1, 2, 3), (1, 2, 4), (16, 32, 64)), SHAPE)
    path = folder / "device.json"
    content = {"tables": [table.to_dict()]}
    path.write_text(json.dumps(content))
    return path, content


@given(data=st.data())
@examples(0.05)
def test_profiles_with_other_values(
    data: st.DataObject, profile: tuple[Path, dict[str, Any]], folder: Path
) -> None:
    """A job with limits on a device, whose profile somebody has changed."""
    path, content = profile
    limits = {"latency_ms": "0.8x", "size_mb": "0.9x", "length": 16, "profile": str(path)}
    job = {**JOB, "run": {"name": "x", "methods": ["yoco"]}, "budget": [{"name": "device", **limits}]}
    path.write_text(json.dumps(data.draw(mutated_value(content))))
    (folder / "device.toml").write_text(toml(job))
    tried("profiles", lambda: read_job(folder / "device.toml"))


@given(
    expression=st.lists(
        st.sampled_from([
            "step", "loss", "phase", "run", "<", "==", "and", "or", "not", "(", ")", "in", "[", "]", "1",
            "1e308", "'a'", "+", "*", "/", "-", ".", "**", ",", "None", "lambda", "explored", "9" * 40,
        ]),
        max_size=12,
    )
)  # fmt: skip
@examples(0.1)
def test_filters(expression: list[str]) -> None:
    row = {
        "run": ["a", "b"],
        "step": [1, 2],
        "loss": [0.5, None],
        "training": ["x", None],
        "phase": ["x", None],
        "explored": [True, None],
    }
    tried("filters", lambda: query.filter_rows(pd.DataFrame(row), " ".join(expression)))


@pytest.fixture(scope="module")
def run(folder: Path) -> tuple[Path, dict[str, tuple[Path, bytes]]]:
    """A run's folder, and one whole file of each of its tables."""
    made = begin_run(folder / "storage")
    finish_run(made)
    parts = {name: part_files(made, name)[0] for name in SCHEMAS if part_files(made, name)}
    return made, {name: (path, path.read_bytes()) for name, path in parts.items()}


@given(data=st.data(), name=st.sampled_from(["steps", "distribution", "evaluations", "deployments"]))
@examples(0.16)
def test_tables_with_other_bytes(
    data: st.DataObject, name: str, run: tuple[Path, dict[str, tuple[Path, bytes]]]
) -> None:
    made, parts = run
    path, whole = parts[name]
    tail = data.draw(st.booleans())  # the footer, which says how all the rest is read, is at the end
    changed = data.draw(mutated_bytes(whole[::-1] if tail else whole, 600 if tail else None))
    path.write_bytes(changed[::-1] if tail else changed)
    try:
        tried("tables", lambda: (read_table(made, name), load_tables(made)))
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def texts(folder: Path) -> dict[str, bytes]:
    """Good data in each format."""
    frame = make_sentences(40, 0)
    frame.to_parquet(folder / "good.parquet")
    return {
        "csv": frame.to_csv(index=False).encode(),
        "tsv": frame.to_csv(index=False, sep="\t").encode(),
        "jsonl": frame.to_json(orient="records", lines=True).encode(),
        "parquet": (folder / "good.parquet").read_bytes(),
    }


@given(data=st.data(), ending=st.sampled_from(["csv", "tsv", "jsonl", "parquet"]))
@examples(0.06)
def test_data_files_with_other_bytes(
    data: st.DataObject, ending: str, texts: dict[str, bytes], folder: Path
) -> None:
    path = folder / f"data.{ending}"
    path.write_bytes(data.draw(mutated_bytes(texts[ending])))
    settings = TaskSettings(train=str(path), text=["text"], label="label")
    tried("data files", lambda: load_task(settings, 0))


@given(
    labels=st.lists(LABELS, min_size=1, max_size=6),
    rows=st.integers(2, 40),
    ending=st.sampled_from(["csv", "csv.gz", "tsv", "jsonl", "parquet"]),
    kind=st.sampled_from(["auto", "classification", "regression"]),
    names=st.none() | st.lists(st.text(max_size=4), min_size=1, max_size=4),
    positive=st.none() | st.text(max_size=3),
)
@examples(0.1)
def test_data_files_with_other_labels(
    labels: list[Any],
    rows: int,
    ending: str,
    kind: str,
    names: list[str] | None,
    positive: str | None,
    folder: Path,
) -> None:
    """Labels that look like numbers, dates, truth values, quotes or nothing, in each format."""
    path = folder / f"labels.{ending}"
    values = [labels[row % len(labels)] for row in range(rows)]
    write_labels(path, [f"a text {row}" for row in range(rows)], values)

    def load() -> None:
        settings = {"kind": kind, "labels": names, "positive": positive}
        task = load_task(TaskSettings(train=str(path), text=["text"], label="label", **settings), 0)
        describe_task(task, TaskSettings(train=str(path), text=["text"], label="label"))
        assert len(set(task.label_names)) == len(task.label_names)

    tried("label columns", load)


def write_labels(path: Path, texts: list[str], values: list[Any]) -> None:
    """Write texts and labels in the format of a file; a table of one type if Parquet needs one."""
    rows = [{"text": text, "label": value} for text, value in zip(texts, values, strict=True)]
    if path.suffix == ".parquet":
        try:
            pd.DataFrame(rows).to_parquet(path)
        except (pa.ArrowException, OverflowError, ValueError):
            pd.DataFrame({"text": texts, "label": list(map(repr, values))}).to_parquet(path)
        return
    if path.suffix == ".jsonl":
        data = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        data = "".join(f"{row['text']}{mark}{row['label']}\n" for row in [TITLES, *rows])
    raw = data.encode("utf-8", "surrogatepass")
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@given(data=st.data())
@examples(0.05)
def test_csv_files_with_other_quotes(data: st.DataObject, folder: Path) -> None:
    """Quotes, backslashes, delimiters and line ends at any place of a CSV file."""
    lines = [f"a text {row},{'ab'[row % 2]}" for row in range(12)]
    for _ in range(data.draw(st.integers(1, 6))):
        row = data.draw(st.integers(0, 11))
        place = data.draw(st.integers(0, len(lines[row])))
        mark = data.draw(st.sampled_from(['"', '""', '\\"', "\\", ",", "\n", "\r", "\t", '","', "\x00"]))
        lines[row] = lines[row][:place] + mark + lines[row][place:]
    path = folder / "quotes.csv"
    path.write_text("text,label\n" + "\n".join(lines), newline="")
    settings = TaskSettings(train=str(path), text=["text"], label="label")
    tried("label columns", lambda: load_task(settings, 0))


@pytest.fixture(scope="module")
def model(folder: Path, tuned_model: Path) -> tuple[Path, dict[str, bytes]]:
    """A model's folder, and what its files held."""
    shutil.copytree(tuned_model, folder / "model")
    return folder / "model", {p.name: p.read_bytes() for p in tuned_model.iterdir()}


@given(data=st.data(), file=st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json"]))
@examples(0.02)
def test_model_folders_with_other_json(
    data: st.DataObject, file: str, model: tuple[Path, dict[str, bytes]]
) -> None:
    path, whole = model
    value = data.draw(mutated_value(json.loads(whole[file])))
    (path / file).write_text(json.dumps(value))
    try:
        tried("model folders", lambda: load_encoder(str(path), num_labels=2))
    finally:
        (path / file).write_bytes(whole[file])


OUTPUT_NAMES = st.one_of(
    st.sampled_from(["bad", "good", "GOOD", "LABEL_0", "LABEL_1", "0", "1", "", "b a d"]), VALUES
)
HEAD_SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "id2label": st.one_of(
            VALUES, st.dictionaries(st.sampled_from(["0", "1", "2", "-1", "x"]), OUTPUT_NAMES, max_size=4)
        ),
        "label2id": st.one_of(VALUES, st.dictionaries(TEXTS, st.integers(-1, 3), max_size=3)),
        "problem_type": st.one_of(
            VALUES, st.sampled_from(["regression", "single_label_classification", "multi_label_x"])
        ),
        "architectures": st.one_of(
            VALUES, st.just(["BertModel"]), st.just(["BertForTokenClassification"])
        ),
        "num_labels": st.integers(-1, 4),
    },
)


@given(
    settings=HEAD_SETTINGS, labels=st.sampled_from([["bad", "good"], ["0", "1"], ["bad", "x", "good"]])
)
@examples(0.01)
def test_classifiers_with_other_names(
    settings: dict[str, Any], labels: list[str], model: tuple[Path, dict[str, bytes]], task: Path
) -> None:
    """Names, number and meaning of the outputs, up to the score of the given teacher."""
    path, whole = model
    config = {**json.loads(whole["config.json"]), **settings}
    (path / "config.json").write_text(json.dumps(config))
    try:
        tried("classifiers", lambda: preflight(path, task, labels))
    finally:
        (path / "config.json").write_bytes(whole["config.json"])


TOKEN_SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "tokenizer_class": st.one_of(
            VALUES,
            st.sampled_from(["BertTokenizer", "RobertaTokenizerFast", "XLMRobertaTokenizer", "Nobody"]),
        ),
        "do_lower_case": VALUES,
        "model_max_length": VALUES,
        "model_input_names": VALUES,
        **{f"{role}_token": st.one_of(VALUES, st.just("[CLS]")) for role in ("cls", "sep", "unk", "pad")},
    },
)
MODEL_TYPES = st.sampled_from(["WordLevel", "WordPiece", "BPE", "Unigram", ""])


@given(
    settings=TOKEN_SETTINGS,
    parts=st.dictionaries(
        st.sampled_from(["normalizer", "pre_tokenizer", "post_processor", "added_tokens", "decoder"]),
        st.one_of(
            VALUES,
            st.just({"type": "BertNormalizer", "lowercase": True}),
            st.just({"type": "Lowercase"}),
            st.just({"type": "Whitespace"}),
            st.just({"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}),
        ),
        max_size=2,
    ),
    kind=MODEL_TYPES,
    vocabulary=st.one_of(st.none(), st.dictionaries(TEXTS, st.integers(-1, 30), max_size=8)),
    removed=st.sampled_from(["", "", "", "tokenizer.json", "tokenizer_config.json"]),
)
@examples(0.01)
def test_tokenizers_with_other_rules(
    settings: dict[str, Any],
    parts: dict[str, Any],
    kind: str,
    vocabulary: dict[str, int] | None,
    removed: str,
    model: tuple[Path, dict[str, bytes]],
    task: Path,
) -> None:
    """Rules, class and vocabulary of a tokenizer, up to the score of the given teacher."""
    path, whole = model
    core = {**json.loads(whole["tokenizer.json"]), **parts}
    if kind:
        core["model"]["type"] = kind
    if vocabulary is not None:
        core["model"]["vocab"] = vocabulary
    named = {**json.loads(whole["tokenizer_config.json"]), **settings}
    (path / "tokenizer.json").write_text(json.dumps(core))
    (path / "tokenizer_config.json").write_text(json.dumps(named))
    if removed:
        (path / removed).unlink()
    try:
        tried("tokenizers", lambda: preflight(path, task, ["bad", "good"]))
    finally:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (path / name).write_bytes(whole[name])


@pytest.fixture(scope="module")
def task(folder: Path) -> Path:
    """A small file of labelled sentences."""
    frame = make_sentences(60, 0)
    frame.to_csv(folder / "task.csv", index=False)
    return folder / "task.csv"


def preflight(model: Path, data: Path, labels: list[str]) -> None:
    """What `plan` and `run` do with a model before anything is trained."""
    job = {
        "task": {"train": str(data), "text": ["text"], "label": "label", "max_length": 16},
        "model": {"name": str(model)},
        "space": {"depth": [1, 2, 3], "heads": [1, 2, 4], "ffn": [16, 32, 64]},
        "budget": [{"name": "half", "encoder_params": "0.5x"}],
    }
    if set(labels) >= {"bad", "good"}:
        job["task"]["labels"] = labels  # type: ignore[index]
    parsed = parse_job(job)
    check(RunContext(parsed, data.parent / "runs" / parsed.run_id))


@given(
    data=st.data(),
    file=st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]),
)
@examples(0.02)
def test_model_folders_with_other_bytes(
    data: st.DataObject, file: str, model: tuple[Path, dict[str, bytes]]
) -> None:
    path, whole = model
    head = 3000 if file == "model.safetensors" else None  # its header: the rest is numbers
    (path / file).write_bytes(data.draw(mutated_bytes(whole[file], head)))
    try:
        tried("model folders", lambda: load_encoder(str(path), num_labels=2))
    finally:
        (path / file).write_bytes(whole[file])
