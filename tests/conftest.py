"""A tiny encoder, tiny data and a tiny job: real files, written once for each test session."""

from __future__ import annotations

import gc
import itertools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from tests.not_run import LEFT_OUT, describe_not_run

# Imports create many objects and no garbage. `pytest_collection_finish` switches the collector on again.
gc.disable()

# Functions import torch, transformers and pandas: the process that only starts the workers of
# pytest-xdist reads this file too, and these imports take it 4 seconds.
if TYPE_CHECKING:
    import pandas as pd
    import torch
    from transformers import BertConfig, PreTrainedTokenizerFast

GOOD = ["fine", "great", "lovely", "superb", "warm"]
BAD = ["poor", "awful", "dull", "weak", "cold"]
PLAIN = ["the", "film", "was", "a", "story", "and", "its", "cast", "scene", "plot"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *PLAIN]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return BERT's tokenizer for VOCABULARY: one token for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    token_ids = {word: number for number, word in enumerate(VOCABULARY)}
    core = Tokenizer(models.WordLevel(token_ids, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def make_bert_config(**changes: Any) -> BertConfig:
    """Return the configuration of a BERT with three layers of width 32."""
    from transformers import BertConfig

    settings = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
        **changes,
    }
    return BertConfig(**settings)


def randomise_weights(model: torch.nn.Module, seed: int = 0, scale: float = 0.2) -> None:
    """Change all weights at random: untrained norms and biases are 1 and 0, which hides errors."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)


def make_sentences(rows: int, seed: int) -> pd.DataFrame:
    """Return sentences whose label ("bad" or "good") is visible in one of their words."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(seed)
    texts = []
    labels = []
    for row in range(rows):
        label = row % 2
        words = [str(word) for word in rng.choice(PLAIN, int(rng.integers(3, 9)))]
        position = int(rng.integers(len(words) + 1))
        words.insert(position, str(rng.choice((BAD, GOOD)[label])))
        texts.append(" ".join(words) + " " + PLAIN[row % 10] * (row % 3 == 0))
        labels.append(("bad", "good")[label])
    return pd.DataFrame({"text": texts, "label": labels})


def fine_tune(model: torch.nn.Module, frame: pd.DataFrame, steps: int = 55) -> None:
    """Train a classifier on sentences for a second: "bad" is output 0, "good" is output 1.

    A run refuses a given teacher that does not know its task.
    """
    import torch

    tokenizer = make_tokenizer()
    labels = torch.tensor((frame["label"] == "good").to_numpy(int))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(frame), (16,), generator=generator)
        texts = [frame["text"][int(row)] for row in rows]
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        model(**tokens, labels=labels[rows]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of an untrained encoder and its tokenizer."""
    import torch
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(0)
    BertModel(make_bert_config()).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tuned_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a fine-tuned classifier, which a run uses as its teacher without training."""
    import torch
    from transformers import BertForSequenceClassification

    folder = tmp_path_factory.mktemp("tuned-bert")
    torch.manual_seed(0)
    model = BertForSequenceClassification(make_bert_config(num_labels=2))
    randomise_weights(model, scale=0.05)
    fine_tune(model, make_sentences(200, 7))
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of two CSV files: 200 training sentences and 60 for validation."""
    folder = tmp_path_factory.mktemp("data")
    make_sentences(200, 0).to_csv(folder / "train.csv", index=False)
    make_sentences(60, 1).to_csv(folder / "validation.csv", index=False)
    return folder


@pytest.fixture
def tiny_job(tiny_model: Path, tiny_data: Path) -> dict[str, Any]:
    """Settings of a job that runs in seconds."""
    return make_tiny_job(tiny_model, tiny_data)


def make_tiny_job(model: Path, data: Path) -> dict[str, Any]:
    """Return the settings of a job that runs in seconds."""
    return {
        "run": {"name": "tiny"},
        "task": {
            "train": str(data / "train.csv"),
            "validation": str(data / "validation.csv"),
            "text": ["text"],
            "label": "label",
            "max_length": 16,
        },
        "model": {"name": str(model)},
        "teacher": {"epochs": 2, "learning_rate": 1e-3},
        "space": {"depth": [1, 2, 3], "heads": [1, 2, 4], "ffn": [16, 32, 64]},
        "train": {"steps": 3, "batch_size": 16, "precision": "fp32", "interval": 2},
        "search": {"evaluations": 12, "batch": 4},
        # Healing has tests of its own.
        "heal": {"steps": 0},
        "budget": [
            {"name": "half", "encoder_params": "0.5x"},
            {"name": "third", "flops": "0.35x"},
        ],
    }


_folder_numbers = itertools.count()


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty directory. pytest's own fixture lists those of all earlier tests."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    path = tmp_path_factory.getbasetemp() / f"{name}{next(_folder_numbers)}"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Exempt modules and tests from garbage collection, which would go through all of them each time."""
    gc.collect()
    gc.freeze()
    # Fewer collections: each of the oldest generation goes through all that tests keep for each other.
    gc.set_threshold(20_000, 20, 50)
    gc.enable()


def pytest_sessionfinish() -> None:
    """Undo the exemption: hypothesis looks for the referrers of objects at the end of a session."""
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End the output with what did not run."""
    skips = []
    for report in terminalreporter.stats.get("skipped", []):
        # A skipped test has (file, line, "Skipped: REASON").
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skips.append((report.nodeid.partition("::")[0], reason.removeprefix("Skipped: ")))
    # Tests that the markers left out are not skipped, and nothing else would name them.
    deselected = terminalreporter.stats.get("deselected", [])
    left_out = [name for name in LEFT_OUT for item in deselected if item.get_closest_marker(name)]
    lines = describe_not_run(skips, left_out=left_out)
    if lines:
        terminalreporter.section("did not run")
    for line in lines:
        terminalreporter.write_line(line)
