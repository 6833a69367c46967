"""Tokenizers of checkpoints, loaded so that they tokenise as the folder's tokenizer.json does.

transformers 5 builds the tokenizer class that a configuration names from the vocabulary. Normaliser and
pre-tokeniser of tokenizer.json are then those of the class, not those of the file. It also builds a class
without any vocabulary, and every word is then unknown.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast
from transformers.utils import cached_file

from raycomp.encoder.tokenizer_checks import PROBES, encode_ids
from raycomp.errors import UserError, first_line

TOKENIZER_FILE = "tokenizer.json"

VOCABULARY_FILES = (
    TOKENIZER_FILE,
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
"""Files of which a checkpoint has at least one: without them transformers makes an empty tokenizer."""

SPECIAL_TOKENS = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Roles of tokens that a tokenizer from the file takes over from that of the class."""

MAX_PROBED_TOKENS = 300
"""Number of words of the vocabulary that are tokenised to compare two tokenizers."""


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, padding and truncation off.

    Attributes:
        tokenizer: The fast tokenizer.
        note: Why it is not the one that transformers builds by default; empty where it is.
    """

    tokenizer: Any
    note: str = ""


def read_tokenizer(
    source: str,
    name: str,
    *,
    texts: Sequence[str] = (),
    is_wanted: Callable[[Any], bool] | None = None,
    **options: Any,
) -> LoadedTokenizer:
    """Load a fast tokenizer that gives the tokens that tokenizer.json gives.

    Args:
        source: Name on the Hub or folder.
        name: Name of the model, used in messages.
        texts: Texts of the task, on which the tokenizer is compared with the file.
        is_wanted: Whether a tokenizer is the one that a run began with. It is preferred to the choice by
            comparison. None: the choice is free.
        **options: `revision` and `trust_remote_code`.

    Raises:
        UserError: The checkpoint lacks a tokenizer, or its tokenizer is not a fast one, is empty or
            cannot be loaded as its file has it.
    """
    _check_files(source, name)
    file = _find_file(source, options)
    candidates = _load_candidates(source, file, options)

    # A run keeps the tokenizer that it began with, whichever that is.
    if is_wanted is not None:
        for candidate in candidates:
            if is_wanted(candidate.tokenizer):
                return candidate

    probes = list(texts)
    expected: list[list[int]] | None = None
    if file is not None:
        reference = _read_reference(file)
        probes += _probe_words(reference)
        expected = encode_ids(reference, [*PROBES, *probes])

    for candidate in candidates:
        ids = encode_ids(candidate.tokenizer.backend_tokenizer, [*PROBES, *probes])
        if expected in (None, ids) and _survives_saving(candidate.tokenizer, probes):
            return candidate
    raise UserError(
        f"The tokenizer of {name}, as transformers loads and saves it, does not give the tokens that its "
        f"{TOKENIZER_FILE} gives. Remove the entry tokenizer_class and all tokens that are not in the "
        "vocabulary from its tokenizer_config.json, or save the tokenizer as PreTrainedTokenizerFast."
    )


def find_difference(tokenizer: Any, other: Any, texts: Sequence[str]) -> str | None:
    """Return a text for which two fast tokenizers give different tokens, or None.

    Args:
        tokenizer: A tokenizer. Padding and truncation, which its calls may have left, are switched off.
        other: Another one, of which the same is true.
        texts: Texts to compare, in addition to `PROBES`.
    """
    for backend in (tokenizer.backend_tokenizer, other.backend_tokenizer):
        backend.no_padding()
        backend.no_truncation()
    probes = [*PROBES, *texts]
    expected = encode_ids(tokenizer.backend_tokenizer, probes)
    actual = encode_ids(other.backend_tokenizer, probes)
    return next((text for text, a, b in zip(probes, expected, actual, strict=True) if a != b), None)


def _survives_saving(tokenizer: Any, texts: Sequence[str]) -> bool:
    """Return whether a tokenizer gives the same tokens after it is saved and loaded, as an export is.

    Found here, before training: a deployment would fail with it.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        loaded = AutoTokenizer.from_pretrained(  # nosec B615  # written above
            folder, config=PretrainedConfig(), local_files_only=True
        )
        return find_difference(tokenizer, loaded, texts) is None


def _check_files(source: str, name: str) -> None:
    """Refuse a folder without any file of a vocabulary."""
    folder = Path(source)
    paths = [folder / file for file in VOCABULARY_FILES]
    if folder.is_dir() and not any(path.exists() and path.stat().st_size for path in paths):
        raise UserError(missing_tokenizer_message(name))


def missing_tokenizer_message(name: str) -> str:
    """Return the message about a checkpoint without a vocabulary."""
    return (
        f"Model {name} has weights but no tokenizer: {TOKENIZER_FILE} or another file with the "
        "vocabulary is missing or empty, and every word would be unknown. Save the tokenizer that the "
        f"model was fine-tuned with: AutoTokenizer.from_pretrained(BASE_MODEL).save_pretrained({name!r})."
    )


def _find_file(source: str, options: dict[str, Any]) -> str | None:
    """Return the path of tokenizer.json, or None where the checkpoint lacks it."""
    path = Path(source)
    if path.is_dir():
        return str(path / TOKENIZER_FILE) if (path / TOKENIZER_FILE).exists() else None
    try:
        cached_path = cached_file(
            source,
            TOKENIZER_FILE,
            revision=options.get("revision"),
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        return None
    return str(cached_path) if cached_path else None


def _load_candidates(source: str, file: str | None, options: dict[str, Any]) -> list[LoadedTokenizer]:
    """Return the tokenizer of the class and, where there is a file, the one of the file."""
    candidates: list[LoadedTokenizer] = []
    failure: Exception | None = None
    try:
        candidates.append(LoadedTokenizer(_load(AutoTokenizer, source, options)))
    except Exception as error:
        failure = error

    # A class of the checkpoint itself may do more than its file says, and the user allows its code.
    has_own_class = bool(candidates) and not type(candidates[0].tokenizer).__module__.startswith(
        "transformers."
    )
    if file is not None and not has_own_class:
        try:
            tokenizer = _load(PreTrainedTokenizerFast, source, options)
        except Exception as error:
            failure = failure or error
        else:
            class_tokenizer = candidates[0].tokenizer if candidates else None
            _fill_special_tokens(tokenizer, class_tokenizer)
            candidates.append(LoadedTokenizer(tokenizer, _describe_choice(class_tokenizer)))

    if not candidates:
        assert failure is not None  # nosec B101 - either a tokenizer or a failure
        raise failure
    return candidates


def _describe_choice(class_tokenizer: Any) -> str:
    kind = "the class that its configuration names"
    if class_tokenizer is not None:
        kind = type(class_tokenizer).__name__
    return (
        f"{TOKENIZER_FILE} of the model is used as it is written, because {kind} of transformers 5 would "
        "give other tokens."
    )


def _load(loader: Any, source: str, options: dict[str, Any]) -> Any:
    """Load a fast tokenizer; switch baked-in padding and truncation off (MiniLM's cuts at 128)."""
    try:
        tokenizer = loader.from_pretrained(source, **options)  # nosec B615  # model.revision
    except BaseException as error:
        # The Rust library panics on a damaged file; a panic is not an `Exception`.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"its {TOKENIZER_FILE} is damaged: {first_line(error)}") from None

    # A user who loads an export allows its code to run: it must only name ours.
    tokenizer.init_kwargs.pop("auto_map", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{type(tokenizer).__name__} is not a fast tokenizer. Use a checkpoint with {TOKENIZER_FILE}."
        )
    backend.no_padding()
    backend.no_truncation()
    return tokenizer


def _fill_special_tokens(tokenizer: Any, class_tokenizer: Any) -> None:
    """Name the special tokens of a tokenizer from the file, where its configuration does not.

    Args:
        tokenizer: The tokenizer from the file.
        class_tokenizer: The tokenizer of the class, or None.
    """
    if class_tokenizer is None:
        return

    vocabulary = tokenizer.get_vocab()
    for role in SPECIAL_TOKENS:
        token = getattr(class_tokenizer, role, None)
        if getattr(tokenizer, role, None) is None and token is not None and str(token) in vocabulary:
            setattr(tokenizer, role, str(token))
    # RoBERTa's classes do not send token types, because the model has one type only.
    tokenizer.model_input_names = list(class_tokenizer.model_input_names)


def _read_reference(file: str) -> Any:
    """Return the tokenizer of a tokenizer.json as the tokenizers library reads it."""
    reference = Tokenizer.from_file(file)
    reference.no_padding()
    reference.no_truncation()
    return reference


def _probe_words(reference: Any) -> list[str]:
    """Return words of the vocabulary, evenly spaced, without the marks of sub-words."""
    # Evenly spaced: the first tokens of a vocabulary are special tokens and letters.
    vocabulary = sorted(reference.get_vocab(with_added_tokens=False).items(), key=lambda pair: pair[1])
    step = max(1, len(vocabulary) // MAX_PROBED_TOKENS)
    words = [token.strip("#▁Ġ") for token, _ in vocabulary[::step]]
    return [word for word in words if word.isalnum()]


def read_tokenizer_settings(source: str) -> dict[str, Any]:
    """Return the contents of a folder's tokenizer_config.json; empty where the file is missing."""
    path = Path(source) / "tokenizer_config.json"
    if not path.exists():
        return {}
    settings = json.loads(path.read_bytes())
    return settings if isinstance(settings, dict) else {}
