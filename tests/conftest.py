"""A tiny encoder, tiny data and a tiny job: real files, made once a session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import settings
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

# What is slow here is the machine, shared with Ray's processes: an example has no time limit of its own.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

GOOD = ["fine", "great", "lovely", "superb", "warm"]
BAD = ["poor", "awful", "dull", "weak", "cold"]
PLAIN = ["the", "film", "was", "a", "story", "and", "its", "cast", "scene", "plot"]
WORD_EMBEDDING = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *PLAIN]


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORD_EMBEDDING)}, unk_token="[UNK]"))
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


def bert_config(**changes: Any) -> BertConfig:
    given = {
        "vocab_size": len(WORD_EMBEDDING),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
        **changes,
    }
    return BertConfig(**given)


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Give norms and biases values of their own: fresh ones are 1 and 0 and would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


def sentences(rows: int, seed: int) -> pd.DataFrame:
    """Sentences whose label can be read from one word."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for i in range(rows):
        label = i % 2
        words = [str(w) for w in rng.choice(PLAIN, int(rng.integers(3, 9)))]
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice((BAD, GOOD)[label])))
        texts.append(" ".join(words) + " " + PLAIN[i % 10] * (i % 3 == 0))
        labels.append(("bad", "good")[label])
    return pd.DataFrame({"text": texts, "label": labels})


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(0)
    BertModel(bert_config()).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tuned_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned-bert")
    torch.manual_seed(0)
    model = BertForSequenceClassification(bert_config(num_labels=2))
    randomise(model)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    sentences(200, 0).to_csv(folder / "train.csv", index=False)
    sentences(60, 1).to_csv(folder / "validation.csv", index=False)
    return folder


@pytest.fixture
def tiny_job(tiny_model: Path, tiny_data: Path) -> dict[str, Any]:
    """The data of a job that runs in seconds."""
    return tiny(tiny_model, tiny_data)


def tiny(model: Path, data: Path) -> dict[str, Any]:
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
        "budget": [
            {"name": "half", "encoder_params": "0.5x"},
            {"name": "third", "flops": "0.35x"},
        ],
    }


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
