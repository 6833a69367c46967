"""Tokenises a split once. The cache is an Arrow file named by the hash of its content, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raycomp.data.target_scaling import IDENTITY, TargetScaling
from raycomp.storage.files import atomic_write

if TYPE_CHECKING:
    # Evaluators read tokens only: pandas takes half a second to import.
    from raycomp.data.tasks import Split

# Rows that are tokenised in one call.
BLOCK = 4096


@dataclass(frozen=True)
class TokenSplit:
    """Tokens of a split in flat arrays: row `i` has the tokens from `offsets[i]` to `offsets[i + 1]`.

    Attributes:
        key: Hash of texts, labels, tokenizer and maximum length.
        input_ids: Token ids, (tokens,) int32; memory-mapped if cached.
        token_types: Number of the text (0 or 1) of each token, (tokens,) int8.
        offsets: First token of each row and the end of the last row, (rows + 1,) int64.
        labels: Classes, or targets as training sees them, (rows,) int64 or float32.
        scaling: Units of the targets.
        written: Targets in the user's units, (rows,); None where `labels` have them.
    """

    key: str
    input_ids: np.ndarray
    token_types: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    scaling: TargetScaling = IDENTITY
    written: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each row: (rows,). The first access computes it for all rows."""
        return np.diff(self.offsets)

    def row_lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of tokens of some rows, without touching the others: (rows,).

        Args:
            rows: Row numbers.
        """
        return self.offsets[rows + 1] - self.offsets[rows]

    @property
    def written_labels(self) -> np.ndarray:
        """Classes, or targets in the user's units: (rows,)."""
        return self.labels if self.written is None else self.written

    def standardised(self, scaling: TargetScaling) -> TokenSplit:
        """Return the same rows with standardised targets.

        Args:
            scaling: Units of the targets. The identity leaves the split as it is.
        """
        if scaling.is_identity:
            return self
        labels = scaling.standardise(self.labels)
        return replace(self, labels=labels, scaling=scaling, written=self.labels)


def fingerprint(tokenizer: Any) -> str:
    """Return a hash of a fast tokenizer's settings, without those of truncation and padding."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings["truncation"] = None
    settings["padding"] = None
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def tokenise(
    split: Split, tokenizer: Callable[[], Any], mark: str, max_length: int, cache: Path | None
) -> TokenSplit:
    """Return the tokens of a split, from the cache if it has them.

    Args:
        split: Texts and labels.
        tokenizer: Function that loads a fast tokenizer of transformers. It is called only if the cache
            lacks the split.
        mark: Result of `fingerprint` for the tokenizer.
        max_length: Maximum number of tokens. Longer rows are cut, the longer text of a pair first.
        cache: Directory of Arrow files, or None.
    """
    key = _content_key(split, mark, max_length)
    if cache is not None:
        tokens = cached(cache, key, len(split))
        if tokens is not None:
            return tokens

    encoded = _encode(split, tokenizer(), max_length, key)
    if cache is None:
        return encoded
    atomic_write(cache / f"{key}.arrow", lambda path: _write(path, encoded))
    # Memory-mapped arrays are shared with other processes and need no memory of this one.
    return cached(cache, key, len(split)) or encoded


def _content_key(split: Split, mark: str, max_length: int) -> str:
    """Return a hash of everything that the tokens of a split depend on."""
    digest = hashlib.sha256()
    for part in (mark, str(max_length), str(split.labels.dtype)):
        digest.update(part.encode())
    for texts in (split.text_a, split.text_b or []):
        digest.update(f"\x01{len(texts)}".encode())
        for text in texts:
            raw = text.encode("utf-8", "surrogatepass")
            # The length separates texts: ("ab", "c") and ("a", "bc") have different hashes.
            digest.update(len(raw).to_bytes(8, "little"))
            digest.update(raw)
    digest.update(np.ascontiguousarray(split.labels).tobytes())
    return digest.hexdigest()[:32]


def _encode(split: Split, tokenizer: Any, max_length: int, key: str) -> TokenSplit:
    """Tokenise all rows of a split."""
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
        for row_ids, row_types in zip(encoded["input_ids"], encoded["token_type_ids"], strict=True):
            ids.append(np.array(row_ids, np.int32))
            types.append(np.array(row_types, np.int8))
            lengths.append(len(row_ids))

    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenSplit(key, np.concatenate(ids), np.concatenate(types), offsets, split.labels)


def _write(path: Path, tokens: TokenSplit) -> None:
    """Write tokens as an Arrow file of one batch, which can be memory-mapped."""
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
    """Return a cached split, memory-mapped; None if it is missing or damaged and must be built again.

    Args:
        cache: Directory of Arrow files.
        key: Key of the split.
        rows: Number of rows that the split must have.
    """
    # The key becomes a file name, and a run directory from elsewhere may contain any key.
    if re.fullmatch(r"[0-9a-f]{32}", key) is None:
        return None

    path = cache / f"{key}.arrow"
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        lists = batch.column("input_ids")
        offsets = lists.offsets.to_numpy()
        tokens = TokenSplit(
            key,
            lists.values.to_numpy(zero_copy_only=True),
            batch.column("token_types").values.to_numpy(zero_copy_only=True),
            offsets,
            batch.column("label").to_numpy(zero_copy_only=True),
        )
    except (pa.ArrowInvalid, OSError, KeyError, IndexError):
        return None

    is_complete = len(tokens) == rows and len(tokens.input_ids) == offsets[-1]
    return tokens if is_complete else None
