"""Vocabularies cut to the tokens of a task: WordPiece, BPE and Unigram."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raycomp.encoder.vocabulary import choose_tokens, cut_tokenizer
from raycomp.errors import UserError

CORPUS = [
    "the baker sells bread and the baker bakes bread every morning",
    "a lonely painter paints the lonely harbour every evening",
    "unbelievable harbours, unbelievably painted mornings; evenings of bread",
    "die Bäckerin malt den Hafen am Abend und am Morgen",
] * 4
TRAIN = CORPUS[:2]
HELD_OUT = ["the harbour bakes unbelievable bread", "den Hafen am Morgen", "quixotic painters"]


def word_piece(words: list[str]) -> Tokenizer:
    """A WordPiece tokenizer with [PAD] [UNK] [CLS] [SEP] [MASK], letters and some words."""
    letters = string.ascii_lowercase + "ä,;"
    pieces = [*letters, *("##" + letter for letter in letters), *words]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*special, *pieces]))}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    core.add_special_tokens(special)
    return core


def make_word_piece() -> Tokenizer:
    words = sorted({word.strip(",;") for text in CORPUS for word in text.lower().split()})
    return word_piece([*words, "##s", "un", "##believ", "##able", "##ably", "paint"])


def make_bpe() -> Tokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    # As in RoBERTa's file: the mask has the last id.
    core.add_special_tokens(["<mask>"])
    return core


def make_unigram() -> Tokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    core.add_special_tokens(["<mask>"])
    return core


TOKENIZERS: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "WordPiece": (make_word_piece, "[{}]"),
    "BPE": (make_bpe, "<{}>"),
    "Unigram": (make_unigram, "<{}>"),
}


def wrap(core: Tokenizer, form: str) -> Any:
    roles = {"pad_token": "pad", "unk_token": "unk", "mask_token": "mask"}
    names = {role: form.format(name) for role, name in roles.items()}
    names = {role: name.upper() if form == "[{}]" else name for role, name in names.items()}
    first, last = ("[CLS]", "[SEP]") if form == "[{}]" else ("<s>", "</s>")
    return PreTrainedTokenizerFast(tokenizer_object=core, cls_token=first, sep_token=last, **names)


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    make, form = TOKENIZERS[request.param]
    return wrap(make(), form)


def count(tokenizer: Any, texts: list[str]) -> np.ndarray:
    ids = [token_id for text in texts for token_id in tokenizer(text)["input_ids"]]
    return np.bincount(ids, minlength=len(tokenizer))


def test_texts_whose_tokens_stay_are_tokenised_as_before(tokenizer: Any, tmp_path: Path) -> None:
    token_ids = choose_tokens(tokenizer, count(tokenizer, TRAIN), 1.0)
    cut = cut_tokenizer(tokenizer, token_ids)

    assert len(cut) == len(token_ids) < len(tokenizer)
    pairs = (TRAIN[0], TRAIN[1])
    assert token_ids[cut(*pairs)["input_ids"]].tolist() == tokenizer(*pairs)["input_ids"]
    for role in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"):
        new_id = getattr(cut, f"{role}_id")
        assert token_ids[new_id] == getattr(tokenizer, f"{role}_id")

    cut.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TRAIN, *HELD_OUT]:
        assert loaded(text)["input_ids"] == cut(text)["input_ids"]


def test_other_words_fall_back_to_pieces(tokenizer: Any) -> None:
    cut = cut_tokenizer(tokenizer, choose_tokens(tokenizer, count(tokenizer, TRAIN), 1.0))

    for text in HELD_OUT:
        before = tokenizer(text)["input_ids"]
        after = cut(text)["input_ids"]
        assert len(after) >= len(before)
        assert after.count(cut.unk_token_id) == before.count(tokenizer.unk_token_id)
        assert cut.decode(after, skip_special_tokens=True) == tokenizer.decode(
            before, skip_special_tokens=True
        )


def test_a_lower_coverage_keeps_the_most_frequent_tokens(tokenizer: Any) -> None:
    counts = count(tokenizer, TRAIN)
    all_seen = choose_tokens(tokenizer, counts, 1.0)
    fewer = choose_tokens(tokenizer, counts, 0.8)

    assert set(fewer) < set(all_seen)
    rarest_kept = min(counts[list(set(all_seen) & set(fewer))])
    assert max(counts[list(set(all_seen) - set(fewer))]) <= max(rarest_kept, counts[counts > 0].mean())
    # Tokens of a text change then, and the text stays readable.
    cut = cut_tokenizer(tokenizer, fewer)
    assert cut.unk_token_id not in cut(TRAIN[0])["input_ids"]


def test_byte_pieces_and_merges_of_strings_stay() -> None:
    tokens = {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "abb": 4, "<0x41>": 5}
    core = Tokenizer(models.BPE(tokens, [("a", "b"), ("ab", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    counts = np.array([0, 0, 0, 0, 1, 0])

    # "abb" is made of "ab", which the text never has.
    assert choose_tokens(tokenizer, counts, 1.0).tolist() == [0, 1, 2, 3, 4, 5]
    # Without "abb", nothing needs "ab".
    assert choose_tokens(tokenizer, 0 * counts, 1.0).tolist() == [0, 1, 2, 5]


def test_a_tokenizer_without_pieces_is_refused() -> None:
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")

    with pytest.raises(UserError, match="its model is WordLevel"):
        cut_tokenizer(tokenizer, np.array([0, 1]))
