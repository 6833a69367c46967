"""Tokenised once, cached as Arrow under the hash of the content, read by memory mapping."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raycomp.data.tasks import Split
from raycomp.storage.files import atomic_write

BLOCK = 4096


@dataclass(frozen=True)
class TokenSplit:
    """Tokens of a split, flat.

    Attributes:
        key: hash of texts, labels, tokenizer and length.
        input_ids: (tokens,) int32, memory-mapped where cached.
        token_types: (tokens,) int8.
        offsets: (rows + 1,) int64 into the flat arrays.
        labels: (rows,) int64 or float32.
    """

    key: str
    input_ids: np.ndarray
    token_types: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row: (rows,)."""
        return np.diff(self.offsets)


def fingerprint(tokenizer: Any) -> str:
    """Return the hash of all that a fast tokenizer does to a text, its limits of length left out."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["truncation"] = backend["padding"] = None
    return hashlib.sha256(json.dumps(backend, sort_keys=True).encode()).hexdigest()


def tokenise(
    split: Split, tokenizer: Callable[[], Any], mark: str, max_length: int, cache: Path | None
) -> TokenSplit:
    """Return a split's tokens, from the cache where it has them.

    Args:
        split: texts and labels.
        tokenizer: gives a fast tokenizer of transformers; called only when the cache lacks the split.
        mark: the tokenizer's `fingerprint`.
        max_length: longer texts are cut, the longest of a pair first.
        cache: folder of Arrow files, or None.
    """
    digest = hashlib.sha256()
    for part in (mark, str(max_length), str(split.labels.dtype)):
        digest.update(part.encode())
    for texts in (split.text_a, split.text_b or []):
        digest.update(f"\x01{len(texts)}".encode())
        for text in texts:
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "little"))
            digest.update(raw)
    digest.update(np.ascontiguousarray(split.labels).tobytes())
    key = digest.hexdigest()[:32]
    found = cached(cache, key, len(split)) if cache is not None else None
    if found is not None:
        return found
    made = _encode(split, tokenizer(), max_length, key)
    if cache is None:
        return made
    atomic_write(cache / f"{key}.arrow", lambda hidden: _write(hidden, made))
    return cached(cache, key, len(split)) or made


def _encode(split: Split, tokenizer: Any, max_length: int, key: str) -> TokenSplit:
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    lengths: list[int] = []
    for start in range(0, len(split), BLOCK):
        end = start + BLOCK
        second = split.text_b[start:end] if split.text_b is not None else None
        encoded = tokenizer(
            split.text_a[start:end],
            second,
            truncation="longest_first",
            max_length=max_length,
            padding=False,
            return_token_type_ids=True,
            return_attention_mask=False,
            verbose=False,
        )
        for row, kinds in zip(encoded["input_ids"], encoded["token_type_ids"], strict=True):
            ids.append(np.array(row, np.int32))
            types.append(np.array(kinds, np.int8))
            lengths.append(len(row))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenSplit(key, np.concatenate(ids), np.concatenate(types), offsets, split.labels)


def _write(path: Path, tokens: TokenSplit) -> None:
    table = pa.table(
        {
            "input_ids": pa.LargeListArray.from_arrays(tokens.offsets, pa.array(tokens.input_ids)),
            "token_types": pa.LargeListArray.from_arrays(tokens.offsets, pa.array(tokens.token_types)),
            "label": pa.array(tokens.labels),
        }
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(table.combine_chunks().to_batches()[0])


def cached(cache: Path, key: str, rows: int) -> TokenSplit | None:
    """Map a cached split; None when it is missing or damaged, so that it is built again."""
    if re.fullmatch(r"[0-9a-f]{32}", key) is None:  # it names a file; a run's folder may be another's
        return None
    path = cache / f"{key}.arrow"
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        lists = batch.column("input_ids")
        offsets = lists.offsets.to_numpy()
        found = TokenSplit(
            key,
            lists.values.to_numpy(zero_copy_only=True),
            batch.column("token_types").values.to_numpy(zero_copy_only=True),
            offsets,
            batch.column("label").to_numpy(zero_copy_only=True),
        )
    except (pa.ArrowInvalid, OSError, KeyError, IndexError):
        return None
    whole = len(found) == rows and len(found.input_ids) == offsets[-1]
    return found if whole else None
