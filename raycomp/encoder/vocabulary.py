"""Vocabularies cut to the tokens of a task: which tokens stay, and the tokenizer that has only these.

The tokenizer keeps its normaliser, its pre-tokeniser and the order of its tokens. Pieces of one character
stay, so a word that lost its token is written in smaller pieces.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from raycomp.errors import UserError

CUTTABLE = ("WordPiece", "BPE", "Unigram")
"""Models of the tokenizers library whose vocabulary can be cut."""

_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def explain_not_cuttable(tokenizer: Any) -> str | None:
    """Return why the vocabulary of a fast tokenizer cannot be cut, or None where it can."""
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if kind not in CUTTABLE:
        return f"its model is {kind}, and only {', '.join(CUTTABLE)} have pieces to fall back to"
    if not type(tokenizer).__module__.startswith("transformers."):
        return f"its class {type(tokenizer).__name__} is code of the checkpoint, which may use token ids"
    return None


def choose_tokens(tokenizer: Any, counts: np.ndarray, coverage: float) -> np.ndarray:
    """Return the ids of the tokens that a cut vocabulary has, ascending, (tokens,) int64.

    They are the most frequent tokens up to the coverage, all special tokens, and the pieces that other
    words fall back to.

    Args:
        tokenizer: The fast tokenizer.
        counts: How often each token occurs in the training text, (vocabulary,).
        coverage: Share of the text's tokens that keep their token; 1 keeps every token that occurs.
    """
    order = np.argsort(-counts, kind="stable")
    covered = np.cumsum(counts[order]) / max(1, counts.sum())
    num_frequent = int(np.searchsorted(covered, coverage - 1e-12)) + 1
    ids = {int(token_id) for token_id in order[:num_frequent] if counts[token_id] > 0}

    settings = _read_settings(tokenizer)
    model = settings["model"]
    vocabulary = _model_vocabulary(model)
    ids |= {int(entry["id"]) for entry in settings["added_tokens"]}
    ids |= {int(token_id) for token_id in tokenizer.all_special_ids}
    ids |= {token_id for token, token_id in vocabulary.items() if _is_fallback(token, model)}
    if model["type"] == "Unigram" and model.get("unk_id") is not None:
        ids.add(int(model["unk_id"]))
    elif model.get("unk_token") in vocabulary:
        ids.add(vocabulary[model["unk_token"]])
    if model["type"] == "BPE":
        ids |= _merge_parts(model, vocabulary, ids)
    return np.array(sorted(ids), np.int64)


def cut_tokenizer(tokenizer: Any, token_ids: np.ndarray) -> Any:
    """Return a tokenizer with some of the tokens, numbered from 0 in the order of their old ids.

    Args:
        tokenizer: The fast tokenizer; it stays as it is.
        token_ids: Result of `choose_tokens`.

    Raises:
        UserError: The vocabulary cannot be cut.
    """
    if reason := explain_not_cuttable(tokenizer):
        raise UserError(f"The vocabulary of this tokenizer cannot be cut: {reason}.")

    new_ids = {int(old): new for new, old in enumerate(token_ids)}
    settings = _read_settings(tokenizer)
    _cut_model(settings["model"], new_ids)
    for entry in settings["added_tokens"]:
        entry["id"] = new_ids[entry["id"]]
    if settings.get("post_processor") is not None:
        settings["post_processor"] = _renumber_processor(settings["post_processor"], new_ids)

    # The copy has the class and the settings of the original, and only its backend is another one.
    cut = copy.deepcopy(tokenizer)
    cut._tokenizer = Tokenizer.from_str(json.dumps(settings))
    return cut


def _read_settings(tokenizer: Any) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    settings["truncation"] = None
    settings["padding"] = None
    return settings


def _model_vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens of a tokenizer's model and their ids."""
    if model["type"] == "Unigram":
        return {piece: token_id for token_id, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _is_fallback(token: str, model: Mapping[str, Any]) -> bool:
    """Return whether a token is a piece that words without a token of their own are made of."""
    if _BYTE_PIECE.fullmatch(token):
        return True
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    return len(token.removeprefix(prefix).removesuffix(suffix)) == 1 or len(token) == 1


def _split_merge(merge: Any) -> tuple[str, str]:
    """Return the two parts of a merge, in the old form "a b" or the new form ["a", "b"]."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _merge_result(first: str, second: str, model: Mapping[str, Any]) -> str:
    """Return the token that a merge makes of two tokens."""
    return first + second.removeprefix(model.get("continuing_subword_prefix") or "")


def _merge_parts(model: Mapping[str, Any], vocabulary: Mapping[str, int], ids: Iterable[int]) -> set[int]:
    """Return the ids of all tokens that the merges of some tokens need, at any depth.

    BPE reaches a token only through its parts: without them, the token would never be made.
    """
    parts: dict[str, list[tuple[str, str]]] = {}
    for merge in model["merges"]:
        first, second = _split_merge(merge)
        parts.setdefault(_merge_result(first, second, model), []).append((first, second))

    tokens = {token_id: token for token, token_id in vocabulary.items()}
    waiting = [tokens[token_id] for token_id in ids if token_id in tokens]
    needed = set(waiting)
    while waiting:
        for part in {part for pair in parts.get(waiting.pop(), []) for part in pair}:
            if part not in needed:
                needed.add(part)
                waiting.append(part)
    return {vocabulary[token] for token in needed}


def _cut_model(model: dict[str, Any], new_ids: Mapping[int, int]) -> None:
    """Remove tokens from the settings of a tokenizer's model."""
    if model["type"] == "Unigram":
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new_ids]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_ids[model["unk_id"]]
        return

    model["vocab"] = {t: new_ids[i] for t, i in model["vocab"].items() if i in new_ids}
    if model["type"] == "BPE":
        vocabulary = model["vocab"]
        merges = [_split_merge(merge) for merge in model["merges"]]
        model["merges"] = [
            [first, second]
            for first, second in merges
            if {first, second, _merge_result(first, second, model)} <= vocabulary.keys()
        ]


def _renumber_processor(processor: dict[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    """Return the settings of what adds special tokens, with their new ids."""
    changed = dict(processor)
    if processor["type"] == "Sequence":
        changed["processors"] = [_renumber_processor(p, new_ids) for p in processor["processors"]]
    if processor["type"] == "TemplateProcessing":
        changed["special_tokens"] = {
            name: {**entry, "ids": [new_ids[i] for i in entry["ids"]]}
            for name, entry in processor["special_tokens"].items()
        }
    # BertProcessing and RobertaProcessing have pairs of token and id.
    for role in ("sep", "cls"):
        if role in processor:
            token, token_id = processor[role]
            changed[role] = [token, new_ids[token_id]]
    return changed
