"""Tokenizers of model folders: as tokenizer.json has them, or refused with one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    PretrainedConfig,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from raycomp.encoder.pretrained import load_checkpoint, load_tokenizer
from raycomp.errors import UserError

SPECIAL = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["the", "film", "was", "fine", "dull", "story", "baker", "and"]
VOCABULARY = [*SPECIAL, *WORDS, *LETTERS, *("##" + letter for letter in LETTERS)]
UPPER = [word.title() for word in WORDS] + list(LETTERS.upper())
CASED = [*VOCABULARY, *UPPER, *("##" + letter for letter in LETTERS.upper())]
TEXTS = ["the film was fine", "The Baker and the story", "dullfilm, the end", ""]
NAMED = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]",
         "mask_token": "[MASK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}  # fmt: skip


def word_piece(words: list[str], *, lower: bool = True, framed: bool = True) -> Tokenizer:
    core = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=lower)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if framed:
        core.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 0))
    return core


def write_model(folder: Path, family: str = "bert", size: int = len(VOCABULARY)) -> None:
    common = {"vocab_size": size, "max_position_embeddings": 40, "pad_token_id": 1, "num_labels": 2}
    bert = {**common, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16}  # fmt: skip
    distil = {**common, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    made: dict[str, Callable[[], Any]] = {
        "bert": lambda: BertForSequenceClassification(BertConfig(**bert)),
        "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**bert, type_vocab_size=1)),
        "xlm-roberta": lambda: XLMRobertaForSequenceClassification(XLMRobertaConfig(**bert)),
        "electra": lambda: ElectraForSequenceClassification(ElectraConfig(**bert, embedding_size=16)),
        "distilbert": lambda: DistilBertForSequenceClassification(DistilBertConfig(**distil)),
    }
    made[family]().save_pretrained(folder)


def write_tokenizer(folder: Path, core: Tokenizer, **settings: Any) -> None:
    core.save(str(folder / "tokenizer.json"))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(str(folder), num_labels=2, texts=TEXTS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def expect_as_written(folder: Path, tmp_path: Path) -> Any:
    """The run, a later process of it and an export give the tokens of tokenizer.json."""
    checkpoint = load_checkpoint(str(folder), num_labels=2, texts=TEXTS)
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [core.encode(text).ids for text in TEXTS]
    assert checkpoint.tokenizer(TEXTS)["input_ids"] == expected
    again = load_tokenizer(str(folder), is_wanted=lambda t: t(TEXTS)["input_ids"] == expected)
    assert again(TEXTS)["input_ids"] == expected
    checkpoint.tokenizer.save_pretrained(tmp_path / "export")
    export = AutoTokenizer.from_pretrained(tmp_path / "export", config=PretrainedConfig())
    assert export(TEXTS)["input_ids"] == expected
    return checkpoint


FAMILIES = ["bert", "roberta", "xlm-roberta", "electra", "distilbert"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("with_settings", [False, True])
def test_a_folder_without_tokenizer_is_refused(family: str, with_settings: bool, tmp_path: Path) -> None:
    write_model(tmp_path, family)
    if with_settings:
        settings = {"tokenizer_class": "BertTokenizerFast", **NAMED}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(NAMED))
    message = refusal(tmp_path)
    assert "has weights but no tokenizer" in message
    assert "save_pretrained" in message


@pytest.mark.parametrize("words", [[], SPECIAL])
def test_a_vocabulary_without_words_is_refused(words: list[str], tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    assert "has weights but no tokenizer" in refusal(tmp_path)


@pytest.mark.parametrize("cut_file", ["vocab.txt", "tokenizer.json"])
def test_a_vocabulary_far_below_the_embeddings_is_refused(cut_file: str, tmp_path: Path) -> None:
    write_model(tmp_path)
    words = VOCABULARY[: len(VOCABULARY) // 3]
    if cut_file == "vocab.txt":
        (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    else:
        write_tokenizer(tmp_path, word_piece(words), tokenizer_class="PreTrainedTokenizerFast", **NAMED)
    message = refusal(tmp_path)
    assert f"has {len(words)} tokens" in message
    assert f"embeddings for {len(VOCABULARY)}" in message


CLASSES = [None, "RobertaTokenizerFast", "BertTokenizer", "PreTrainedTokenizerFast",
           "XLMRobertaTokenizer", "NoSuchTokenizer"]  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_tokens_are_those_of_the_file_whatever_class_is_named(
    name: str | None, family: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    write_model(folder, family)
    settings = {} if name is None else {"tokenizer_class": name, **NAMED}
    write_tokenizer(folder, word_piece(VOCABULARY), **settings)
    checkpoint = expect_as_written(folder, tmp_path)
    assert checkpoint.tokenizer.sep_token_id in (2, None)
    if family == "roberta" and name == "RobertaTokenizerFast":
        assert "as it is written" in checkpoint.tokenizer_note


def own_rules(kind: str) -> Tokenizer:
    core = word_piece(CASED if kind == "cased" else VOCABULARY, lower=kind != "cased")
    if kind == "whitespace":
        core.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "digits":
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.BertPreTokenizer()]
        )
    if kind == "replaced":
        replaced = normalizers.Replace("film", "story")
        core.normalizer = normalizers.Sequence([normalizers.Lowercase(), replaced])
    return core


@pytest.mark.parametrize("kind", ["cased", "whitespace", "digits", "replaced"])
@pytest.mark.parametrize("settings", [{}, {"tokenizer_class": "BertTokenizerFast", **NAMED}])
def test_own_rules_of_the_file_are_kept(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_model(folder, size=len(CASED) if kind == "cased" else len(VOCABULARY))
    write_tokenizer(folder, own_rules(kind), **settings)
    checkpoint = expect_as_written(folder, tmp_path)
    assert "[CLS]" in checkpoint.tokenizer.all_special_tokens


def test_a_usual_tokenizer_stays_that_of_its_class(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_model(folder)
    write_tokenizer(folder, word_piece(VOCABULARY), tokenizer_class="BertTokenizer", **NAMED)
    checkpoint = expect_as_written(folder, tmp_path)
    assert type(checkpoint.tokenizer).__name__.startswith("Bert")
    assert checkpoint.tokenizer_note == ""


@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "BertTokenizerFast"])
def test_a_tokenizer_without_first_token_is_refused(name: str, tmp_path: Path) -> None:
    """Or the class adds the tokens that the file lacks, which is not the file either."""
    write_model(tmp_path)
    write_tokenizer(tmp_path, word_piece(VOCABULARY, framed=False), tokenizer_class=name, **NAMED)
    assert "does not put a special token such as [CLS]" in refusal(tmp_path)


def test_a_cased_vocabulary_is_not_lowered(tmp_path: Path) -> None:
    write_model(tmp_path, size=len(CASED))
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in CASED))
    message = refusal(tmp_path)
    assert "lowers the case of all texts" in message
    assert '{"do_lower_case": false}' in message
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    tokenizer = load_checkpoint(str(tmp_path), num_labels=2, texts=TEXTS).tokenizer
    assert tokenizer.tokenize("The Film") == ["The", "Film"]


def test_a_vocabulary_in_lower_case_is_accepted(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in VOCABULARY))
    tokenizer = load_checkpoint(str(tmp_path), num_labels=2, texts=TEXTS).tokenizer
    assert tokenizer.tokenize("The Film") == ["the", "film"]


def test_a_run_keeps_the_tokenizer_that_it_began_with(tmp_path: Path) -> None:
    """A run of an older version began with the class's tokenizer: its export must have the same."""
    write_model(tmp_path, "roberta")
    write_tokenizer(tmp_path, word_piece(VOCABULARY), tokenizer_class="RobertaTokenizer", **NAMED)
    by_class = AutoTokenizer.from_pretrained(tmp_path)
    ids = by_class("the film")["input_ids"]
    kept = load_tokenizer(str(tmp_path), is_wanted=lambda t: t("the film")["input_ids"] == ids)
    assert kept("the film")["input_ids"] == ids
    assert load_tokenizer(str(tmp_path))("the film")["input_ids"] == [0, 5, 6, 2]
