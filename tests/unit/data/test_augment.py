"""Augmentation by word replacement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from raycomp.data.augment import (
    MaskedCandidates,
    NeighbourCandidates,
    augment_rows,
    find_replaceable_words,
    replace_words,
)
from raycomp.data.whole_words import list_whole_words
from raycomp.errors import UserError

WORDS = [
    "film",
    "movie",
    "picture",
    "good",
    "great",
    "fine",
    "bad",
    "poor",
    "actor",
    "star",
    "##ring",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizerFast:
    path: Path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", ".", *WORDS]))
    return BertTokenizerFast(str(path))


def table(tokenizer: BertTokenizerFast) -> torch.Tensor:
    torch.manual_seed(0)
    found = torch.randn(len(tokenizer), 24)
    ids = tokenizer.get_vocab()
    for group in (("film", "movie", "picture"), ("good", "great", "fine"), ("bad", "poor")):
        for word in group[1:]:
            found[ids[word]] = found[ids[group[0]]] + 0.1 * torch.randn(24)
    return found


def test_stop_words_and_non_words_are_not_replaceable() -> None:
    text = "The film wasn't good, not at all: 3 stars in 2004!"
    assert [w.text for w in find_replaceable_words(text)] == ["film", "good", "stars"]


def test_whole_words_are_neither_pieces_nor_marks(tokenizer: BertTokenizerFast) -> None:
    vocabulary = list_whole_words(tokenizer)
    assert list(vocabulary) == ["LATIN"]
    assert vocabulary["LATIN"].texts == ["the", *WORDS[:-1]]
    assert tokenizer.convert_ids_to_tokens(vocabulary["LATIN"].ids) == vocabulary["LATIN"].texts


def test_neighbours_are_near_and_never_the_word_itself(tokenizer: BertTokenizerFast) -> None:
    found = NeighbourCandidates(table(tokenizer), tokenizer, 2)(["A film. Good starring"])
    assert [sorted(c) for c in found[0][:2]] == [["movie", "picture"], ["fine", "great"]]
    assert len(found[0][2]) == 2  # two pieces: the mean of both
    with pytest.raises(UserError, match=r"copies = 0"):
        NeighbourCandidates(table(tokenizer), tokenizer, 15)


def test_masked_model_fills_words_of_one_token(tokenizer: BertTokenizerFast) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForMaskedLM(
        BertConfig(vocab_size=len(tokenizer), intermediate_size=16, max_position_embeddings=32, **sizes)
    )
    with torch.no_grad():  # a model that always wants "actor", then "star"
        model.cls.predictions.bias[tokenizer.get_vocab()["actor"]] = 60
        model.cls.predictions.bias[tokenizer.get_vocab()["star"]] = 50
    near = NeighbourCandidates(table(tokenizer), tokenizer, 2)
    both = MaskedCandidates(model, tokenizer, 2, near, 32)
    got = both(["the good starring film", "the ."])
    assert got[0][0] == got[0][2] == ["actor", "star"]
    assert got[0][1] == near(["starring"])[0][0]
    assert got[1] == []


def fixed(texts: Sequence[str]) -> list[list[list[str]]]:
    return [[["alpha", "beta"] for _ in find_replaceable_words(t)] for t in texts]


def test_replacement_keeps_case_and_the_rest() -> None:
    rng = np.random.default_rng(0)
    text = "Great FILM, by the director."
    assert replace_words(text, [["alpha"]] * 3, 1.0, rng) == "Alpha ALPHA, by the alpha."
    assert replace_words(text, [["alpha"]] * 3, 0.0, rng) == text
    assert replace_words(text, [[], ["beta"], []], 1.0, rng) == "Great BETA, by the director."


def test_copies_of_a_row_depend_only_on_seed_and_row() -> None:
    rows = [(i, (f"good film number{i}", "fine actor")) for i in range(6)]
    whole = augment_rows(rows, fixed, copies=3, share=0.5, seed=1)
    halves = [
        x for part in (rows[:2], rows[2:]) for x in augment_rows(part, fixed, copies=3, share=0.5, seed=1)
    ]
    assert whole == halves
    assert whole != augment_rows(rows, fixed, copies=3, share=0.5, seed=2)
    assert augment_rows([], fixed, copies=3, share=0.5, seed=1) == []


def test_copies_of_a_row_are_different() -> None:
    found = augment_rows([(7, ("film",))], fixed, copies=50, share=0.5, seed=0)
    assert sorted(found) == [(7, ("alpha",)), (7, ("beta",))]


def test_share_is_the_probability_of_replacing_a_word() -> None:
    rows = [(i, ("film " * 20,)) for i in range(50)]
    found = augment_rows(rows, fixed, copies=1, share=0.4, seed=0)
    kept = np.mean([t[0].split().count("film") / 20 for _, t in found])
    assert kept == pytest.approx(0.6, abs=0.05)


def test_a_word_of_both_texts_gets_the_same_replacement() -> None:
    rows = [(i, ("good film by Film people", "people like the film")) for i in range(30)]
    apart = augment_rows(rows, fixed, copies=4, share=0.5, seed=0)
    found = augment_rows(rows, fixed, copies=4, share=0.5, seed=0, consistent_pairs=True)
    changed = 0
    for _, (a, b) in found:
        _, film, by, again, people = a.split()
        assert again == film.capitalize()
        assert {film, people} <= set(b.split())
        assert by == "by"
        changed += film != "film"
    assert 0.35 < changed / len(found) < 0.65
    assert any(a.split()[1] not in b.split() for _, (a, b) in apart)
    # Words that are not shared are drawn as before, and from the same stream.
    one = [(0, ("good film", "nice actor"))]
    assert augment_rows(one, fixed, copies=9, share=0.5, seed=3) == augment_rows(
        one, fixed, copies=9, share=0.5, seed=3, consistent_pairs=True
    )
