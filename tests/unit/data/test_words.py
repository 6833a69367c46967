"""Words of texts in several scripts, and their replacement by words of the same script."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from raycomp.config.loader import parse_job
from raycomp.data.augment import MaskedCandidates, NeighbourCandidates, augment_rows
from raycomp.data.tokens import TokenSplit
from raycomp.data.whole_words import list_whole_words, measure_replaceable
from raycomp.data.words import find_replaceable_words, find_script
from raycomp.encoder import pretrained
from raycomp.methods.augmentation import AugmentedData, _count_masked_tokens

# Script -> whole words of the vocabulary, and a sentence that has none of them.
SPACED = {
    "LATIN": (["film", "movie", "actor", "scene"], "great story about strange people"),
    "CYRILLIC": (["фильм", "кино", "актер", "сцена"], "очень хорошая история про странных людей"),
    "ARABIC": (["فيلم", "كتاب", "ممثل", "مشهد"], "قصة جميلة جدا عن ناس غريبة"),
    "HANGUL": (["영화", "배우", "장면", "이야기"], "정말 재미있는 작품 추천합니다"),
    "DEVANAGARI": (["किताब", "कहानी", "लोग", "शहर"], "यह फिल्म बहुत अच्छी लगी"),
    "GREEK": (["ταινία", "ηθοποιός", "σκηνή", "βιβλίο"], "πολύ όμορφη ιστορία για ανθρώπους"),
    "HEBREW": (["סרט", "ספר", "שחקן", "סצנה"], "סיפור יפה מאוד על אנשים"),
}
UNSPACED = {
    "Chinese": "这部电影很好看，我很喜欢它",
    "Japanese": "映画はとても良かった。また見たいです",
    "katakana": "スター・ウォーズ",
    "Thai": "หนังเรื่องนี้ดีมาก ชอบที่สุด",
    "Lao": "ຮູບເງົານີ້ດີຫຼາຍ",
    "Burmese": "ဒီရုပ်ရှင်က အရမ်းကောင်းတယ်",
    "Khmer": "ខ្សែភាពយន្តនេះល្អណាស់",
}


def letters_only(text: str) -> str:
    return "".join(c if c.isalpha() or unicodedata.category(c)[0] == "M" else " " for c in text)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizerFast:
    """A vocabulary with four whole words of each script, and pieces of all characters."""
    path: Path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    whole = [word for words, _ in SPACED.values() for word in words]
    characters = sorted(
        set("".join([*UNSPACED.values(), *whole, *(text for _, text in SPACED.values())]))
    )
    pieces = [character for character in characters if not character.isspace()]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path.write_text("\n".join([*special, *whole, *pieces, *(f"##{piece}" for piece in pieces)]))
    return BertTokenizerFast(str(path), strip_accents=False)


@pytest.fixture(scope="module")
def neighbours(tokenizer: BertTokenizerFast) -> NeighbourCandidates:
    torch.manual_seed(0)
    return NeighbourCandidates(torch.randn(len(tokenizer), 16), tokenizer, 2)


@pytest.fixture(scope="module")
def masked(tokenizer: BertTokenizerFast, neighbours: NeighbourCandidates) -> MaskedCandidates:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=128,
    )  # fmt: skip
    return MaskedCandidates(BertForMaskedLM(config), tokenizer, 2, neighbours, 128)


def test_the_vocabulary_is_listed_for_each_script(tokenizer: BertTokenizerFast) -> None:
    vocabulary = list_whole_words(tokenizer)
    assert {script: set(words.texts) for script, words in vocabulary.items()} == {
        script: set(words) for script, (words, _) in SPACED.items()
    }


@pytest.mark.parametrize("source", ["neighbours", "masked"])
@pytest.mark.parametrize("script", SPACED)
def test_a_word_is_replaced_by_words_of_its_script(
    script: str, source: str, request: pytest.FixtureRequest
) -> None:
    candidates = request.getfixturevalue(source)
    words, text = SPACED[script]
    rows = augment_rows([(0, (f"{text}, {words[0]} 7",))], candidates, copies=20, share=0.7, seed=0)
    assert len(rows) > 5
    for _, (version,) in rows:
        assert version.endswith(" 7")
        assert {find_script(word.lower()) for word in letters_only(version).split()} == {script}


@pytest.mark.parametrize("source", ["neighbours", "masked"])
@pytest.mark.parametrize("language", UNSPACED)
def test_text_without_blanks_between_words_stays(
    language: str, source: str, request: pytest.FixtureRequest
) -> None:
    candidates = request.getfixturevalue(source)
    row = (0, (f"{UNSPACED[language]} 7",))
    assert augment_rows([row], candidates, copies=20, share=1.0, seed=0) == []


def test_a_script_that_the_vocabulary_lacks_stays(neighbours: NeighbourCandidates) -> None:
    row = (0, ("ეს ფილმი ძალიან კარგია",))
    assert augment_rows([row], neighbours, copies=5, share=1.0, seed=0) == []
    mixed = augment_rows([(0, ("ფილმი and strange people",))], neighbours, copies=5, share=1.0, seed=0)
    assert mixed
    assert all(version.startswith("ფილმი and ") for _, (version,) in mixed)


def test_marks_on_letters_belong_to_the_word() -> None:
    assert [word.text for word in find_replaceable_words("यह फिल्म, अच्छी!")] == ["यह", "फिल्म", "अच्छी"]
    assert [word.text for word in find_replaceable_words("می‌خواهم کتاب")] == ["می‌خواهم", "کتاب"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The film wasn't good, not at all: 3 stars in 2004!", ["film", "good", "stars"]),
        ("It wasn’t naïve; a café", ["naïve", "café"]),
        ("cafe\u0301s", ["cafe", "s"]),
        ("mixedСлово good", ["good"]),
        ("", []),
    ],
)
def test_words_of_latin_text(text: str, words: list[str]) -> None:
    assert [word.text for word in find_replaceable_words(text)] == words


def test_the_share_of_replaceable_text(tokenizer: BertTokenizerFast) -> None:
    assert measure_replaceable(["strange people"], tokenizer, 2) == 1.0
    assert measure_replaceable(["странные люди"], tokenizer, 2) == 1.0
    assert measure_replaceable(["странные люди"], tokenizer, 4) == 0.0
    assert measure_replaceable([UNSPACED["Chinese"]], tokenizer, 2) == 0.0
    assert measure_replaceable(["the, 7"], tokenizer, 2) == 1.0


def test_byte_level_vocabularies_are_decoded() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel()
    core.decoder = decoders.ByteLevel()

    def written(word: str) -> str:
        return core.pre_tokenizer.pre_tokenize_str(word)[0][0]

    tokens = {token: i for i, token in enumerate([*alphabet, *map(written, ["film", "фильм", "кино"])])}
    core.model = models.BPE(tokens, [])
    vocabulary = list_whole_words(PreTrainedTokenizerFast(tokenizer_object=core))
    assert vocabulary["CYRILLIC"].texts == ["фильм", "кино"]
    assert vocabulary["LATIN"].texts == ["film"]


@pytest.mark.parametrize("is_pair", [False, True])
def test_the_tokens_that_fill_masks_are_counted(
    is_pair: bool, masked: MaskedCandidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read has the text twice; the texts of a pair are read separately."""
    texts = [" ".join(SPACED["LATIN"][0] * 5), " ".join(SPACED["GREEK"][0] * 2)][: 1 + is_pair]
    read = 0

    def count(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        nonlocal read
        read += int(kwargs["attention_mask"].sum())

    hook = masked._model.register_forward_pre_hook(count, with_kwargs=True)
    masked(texts)
    hook.remove()

    lengths = [len(text.split()) for text in texts]
    tokens = TokenSplit(
        "",
        np.zeros(sum(lengths), np.int32),
        np.repeat(np.arange(len(texts), dtype=np.int8), lengths),
        np.array([0, sum(lengths)]),
        np.zeros(1, np.int64),
    )
    data = SimpleNamespace(
        job=parse_job({"task": {"name": "demo/polarity"}, "budget": [{"name": "a", "params": "0.5x"}]}),
        tokens=lambda split: tokens,
        config=SimpleNamespace(max_positions=128),
    )
    monkeypatch.setattr(pretrained, "load_masked_language_model", lambda *arguments: masked._model)
    assert _count_masked_tokens(cast(AugmentedData, data)) == pytest.approx(read, rel=0.15)
