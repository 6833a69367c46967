"""Groups of rows whose texts are related: equal, contained in one another, or nearly equal.

A model that has memorised a training row also knows the rows that are related to it. Rows that decide
between models must therefore come from other groups than the training rows.

Two rows are related if one of these holds. Case, punctuation and blanks do not count.

1. Their texts are equal.
2. Their words differ in one word: replaced, added or removed. The order of words does not count.
3. At least 80% of the n-grams (three words) of one row occur in the other row: it is contained in it, or
   nearly equal to it.

Rules 2 and 3 need rows of four or more words. N-grams that occur in more than 50 rows are phrases of the
language, such as "one of the"; rule 3 ignores them. All steps are sorts and sparse products, so the time
is nearly proportional to the number of words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

NGRAM = 3
"""Words of an n-gram."""

MIN_WORDS = 4
"""Rows with fewer words are related to rows of equal text only."""

CONTAINED_SHARE = 0.8
"""Share of a row's n-grams in another row from which on the two are related."""

COMMON_ROWS = 50
"""N-grams in more rows than this are ignored. A parse tree of a sentence has fewer nodes above a word."""

BLOCK_ROWS = 20_000
"""Rows of one sparse product, which bounds the memory."""

# Chinese and Japanese are written without blanks: there each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+")


def group_related(frame: pd.DataFrame, largest: int) -> np.ndarray:
    """Return the group of each row: (rows,) integers, equal for rows that are linked by related rows.

    Texts that follow a template can all be related. A group of more than `largest` rows is therefore
    divided: first rows that only differ in some words are no longer related, then only rows of equal text
    are.

    Args:
        frame: Columns a and b (texts; b is empty if rows have one text).
        largest: Largest number of rows of a group, unless their texts are equal.
    """
    words = _split_words(frame)
    equal = _link_equal(words)
    sources, targets, shares = _link_contained(words)
    is_whole = shares >= 1.0
    levels = (
        (equal, _link_one_word_apart(words), (sources, targets)),
        (equal, (sources[is_whole], targets[is_whole])),
        (equal,),
    )

    groups = np.zeros(len(frame), np.int64)
    is_large = np.ones(len(frame), bool)
    for edges in levels:
        # The edges of a level are part of those of the level before: its groups divide the earlier ones.
        divided = groups.max(initial=0) + 1 + _components(edges, len(frame))
        groups = np.unique(np.where(is_large, divided, groups), return_inverse=True)[1]
        is_large = np.bincount(groups)[groups] > largest
        if not is_large.any():
            break
    return np.asarray(groups)


def _components(edges: Sequence[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """Return the connected component of each row: (count,)."""
    # Imported here, as below: training workers and evaluators relate no rows.
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    sources = np.concatenate([edge[0] for edge in edges])
    targets = np.concatenate([edge[1] for edge in edges])
    graph = sparse.coo_matrix((np.ones(len(sources), np.int8), (sources, targets)), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def contained_share(rows: pd.DataFrame, others: pd.DataFrame) -> float:
    """Return the share of rows, of those with four or more words, that one of the others contains.

    Args:
        rows: Columns a and b, such as the selection rows.
        others: Columns a and b, such as the training rows.
    """
    return contained_shares([rows], others)[0]


def contained_shares(splits: Sequence[pd.DataFrame], others: pd.DataFrame) -> list[float]:
    """Return `contained_share` of several splits. The other rows are read once.

    Args:
        splits: Frames with columns a and b.
        others: Columns a and b, such as the training rows.
    """
    rows = pd.concat([split[["a", "b"]] for split in splits], ignore_index=True)
    is_long, is_contained = _find_contained(rows, others)
    ends = np.cumsum([len(split) for split in splits])[:-1]
    parts = zip(np.split(is_long, ends), np.split(is_contained, ends), strict=True)
    return [float(contained[long].mean()) if long.any() else 0.0 for long, contained in parts]


def _find_contained(rows: pd.DataFrame, others: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows that one of the other rows contains.

    A row is contained if its words, in order and without gaps, occur in one of the other rows; each text
    of a pair must occur in a text of the same other row.

    Returns:
        Whether a row has four or more words, and whether it is contained; each (rows,).
    """
    words = _split_words(pd.concat([rows[["a", "b"]], others[["a", "b"]]], ignore_index=True))
    is_long = words.counts[: len(rows)] >= MIN_WORDS
    is_contained = np.zeros(len(rows), bool)

    grams, gram_rows = _ngrams(words)
    is_other = gram_rows >= len(rows)
    order = np.argsort(grams[is_other], kind="stable")
    other_grams = grams[is_other][order]
    other_rows = gram_rows[is_other][order] - len(rows)
    own_grams = grams[~is_other]
    starts = np.searchsorted(other_grams, own_grams, side="left")
    ends = np.searchsorted(other_grams, own_grams, side="right")

    bounds = np.searchsorted(gram_rows[~is_other], np.arange(len(rows) + 1))
    for row in np.flatnonzero(is_long):
        own = slice(bounds[row], bounds[row + 1])
        if bounds[row] == bounds[row + 1]:
            continue
        # A row that contains this one also has its rarest n-gram.
        rarest = bounds[row] + int(np.argmin(ends[own] - starts[own]))
        candidates = other_rows[starts[rarest] : ends[rarest]]
        text = _plain_texts(rows, int(row))
        is_contained[row] = any(_contains(_plain_texts(others, int(other)), text) for other in candidates)
    return is_long, is_contained


def _plain_texts(frame: pd.DataFrame, row: int) -> list[str]:
    """Return the words of each text of a row, with blanks around each word; empty texts are left out."""
    texts = (str(frame["a"].iat[row]), str(frame["b"].iat[row]))
    joined = [" ".join(_words_of(text)) for text in texts]
    return [f" {text} " for text in joined if text]


def _contains(larger: list[str], smaller: list[str]) -> bool:
    """Return whether each of the smaller row's texts is part of a text of the larger row."""
    return all(any(text in other for other in larger) for text in smaller)


def _words_of(text: str) -> list[str]:
    """Return the words of a text, lower-case. A text of signs only is one word."""
    plain = text.strip().lower()
    words = _WORD.findall(plain)
    return words or ([plain] if plain else [])


@dataclass(frozen=True)
class _Words:
    """The words of all rows in one array. Each text ends with a separator.

    Attributes:
        hashes: (words,) uint64 random number of each word, equal for equal words; 0 for separators.
        rows: (words,) row of each word.
        counts: (rows,) number of words of each row, without separators.
    """

    hashes: np.ndarray
    rows: np.ndarray
    counts: np.ndarray


def _split_words(frame: pd.DataFrame) -> _Words:
    """Return the words of all rows, lower-case and without punctuation."""
    numbers: dict[str, int] = {}
    ids: list[int] = []
    lengths = np.zeros(len(frame), np.int64)
    for row, texts in enumerate(zip(frame["a"], frame["b"], strict=True)):
        start = len(ids)
        for text in texts:
            ids += [numbers.setdefault(word, len(numbers) + 1) for word in _words_of(text)]
            ids.append(0)
        lengths[row] = len(ids) - start

    table = np.random.default_rng(0).integers(1, 2**63, len(numbers) + 1, dtype=np.uint64)
    table[0] = 0
    hashes = table[np.array(ids, np.int64)]
    rows = np.repeat(np.arange(len(frame)), lengths)
    return _Words(hashes, rows, np.bincount(rows[hashes > 0], minlength=len(frame)))


def _ngrams(words: _Words) -> tuple[np.ndarray, np.ndarray]:
    """Return hash and row of each distinct n-gram of each row, sorted by row.

    N-grams do not reach from one text into the next. Rows of fewer than `MIN_WORDS` words are left out.
    """
    size = max(0, len(words.hashes) - NGRAM + 1)
    grams = np.zeros(size, np.uint64)
    is_whole = np.ones(size, bool)
    for i in range(NGRAM):
        part = words.hashes[i : i + size]
        # With the factor, the order of the words counts. It is odd, and uint64 wraps around.
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + part
        is_whole &= part > 0
    rows = words.rows[:size]
    is_whole &= words.counts[rows] >= MIN_WORDS

    grams = grams[is_whole]
    rows = rows[is_whole]
    order = np.lexsort((grams, rows))
    grams = grams[order]
    rows = rows[order]
    is_new = np.ones(len(grams), bool)
    is_new[1:] = (grams[1:] != grams[:-1]) | (rows[1:] != rows[:-1])
    return grams[is_new], rows[is_new]


def _link_equal_keys(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return edges between the rows of equal keys: each row and the next one of its key."""
    order = np.argsort(keys, kind="stable")
    is_equal = keys[order][1:] == keys[order][:-1]
    return rows[order][:-1][is_equal], rows[order][1:][is_equal]


def _link_equal(words: _Words) -> tuple[np.ndarray, np.ndarray]:
    """Return edges between rows whose texts have the same words in the same order (rule 1)."""
    count = len(words.counts)
    starts = np.searchsorted(words.rows, np.arange(count))
    positions = np.arange(len(words.rows)) - starts[words.rows]
    longest = int(positions.max(initial=0)) + 1
    factors = np.random.default_rng(1).integers(1, 2**63, longest, dtype=np.uint64) | np.uint64(1)

    # A separator has a hash of its own here: the end of the first text counts.
    terms = (words.hashes + np.uint64(1)) * factors[positions]
    return _link_equal_keys(_sum_by_row(terms, words.rows, count), np.arange(count))


def _link_one_word_apart(words: _Words) -> tuple[np.ndarray, np.ndarray]:
    """Return edges between rows that are equal as bags of words after one removal at most (rule 2).

    At least `MIN_WORDS` words are left after a removal.
    """
    count = len(words.counts)
    sums = _sum_by_row(words.hashes, words.rows, count)
    is_long = words.counts > MIN_WORDS
    is_removed = (words.hashes > 0) & is_long[words.rows]

    removed_rows = words.rows[is_removed]
    without_one = sums[removed_rows] - words.hashes[is_removed]
    whole_rows = np.flatnonzero(words.counts >= MIN_WORDS)
    keys = np.concatenate([without_one, sums[whole_rows]])
    return _link_equal_keys(keys, np.concatenate([removed_rows, whole_rows]))


def _sum_by_row(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Return the wrapping sum of the values of each row: (count,) uint64."""
    # Each row has at least the separators of its texts, and rows are ascending.
    starts = np.searchsorted(rows, np.arange(count))
    return np.asarray(np.add.reduceat(values, starts))


def _link_contained(words: _Words) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return edges between rows of which one has most of the other's n-grams (rule 3).

    Returns:
        Row, other row, and the share of the row's n-grams that the other row has; each (edges,).
    """
    from scipy import sparse

    grams, rows = _ngrams(words)
    _, numbers, frequencies = np.unique(grams, return_inverse=True, return_counts=True)
    is_rare = frequencies[numbers] <= COMMON_ROWS
    rows = rows[is_rare]
    numbers = numbers[is_rare]

    count = len(words.counts)
    shape = (count, len(frequencies))
    table = sparse.csr_matrix((np.ones(len(rows), np.int32), (rows, numbers)), shape)
    sizes = np.diff(table.indptr)
    transposed = table.T.tocsr()

    blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, count, BLOCK_ROWS):
        common = (table[start : start + BLOCK_ROWS] @ transposed).tocoo()
        own = common.row + start
        shares = common.data / sizes[own]
        is_related = (shares >= CONTAINED_SHARE) & (own != common.col)
        blocks.append((own[is_related], common.col[is_related], shares[is_related]))
    sources, targets, shares = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return sources, targets, shares
