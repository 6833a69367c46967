"""From the labels of a file to the classes of a task.

Labels are names, as they are written: 001 and 1 are two classes, and so are 1.1 and 1.10. Only whole
numbers are compared by value, because the same file has 1 or 1.0 depending on the program that wrote it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from raycomp.data.number_forms import DATE, DECIMAL_COMMA, are_codes, find_form
from raycomp.errors import UserError, shown

# Largest number of characters of a class name.
MAX_LABEL = 200

# Largest number of classes that the label column may define.
MAX_CLASSES = 1000

# With more classes than this, each class should have some rows, or the job has to name the kind of task.
MANY_CLASSES = 20
MIN_ROWS_ANUMBER = 3
MIN_ROWS_A_NAME = 1.2

# Groups of similar labels that a message lists.
MAX_LISTED = 5

# A whole number as Python, pandas and spreadsheets write it. A code such as 007 does not match.
_WHOLE = re.compile(r"\s*([-+]?)(0|[1-9][0-9]*)(?:\.0*)?\s*")
NUMBER = re.compile(r"\s*[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\s*")

# Labels of rows without a label -> least number of classes 0, 1, 2 and so on next to it. Datasets of the
# Hub write -1, and PyTorch's losses ignore -100. The classes -1, 0 and 1 are usual for sentiment.
UNLABELLED = {"-1": 3, "-100": 2}

MISSING_MARKS = frozenset(
    ("NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "Null", "None", "NaT", "-nan")
)
"""Texts that programs write for a missing cell. raycomp reads them as words."""


def label_text(value: object) -> str:
    """Return a label as text, and the number 1.0 as "1".

    pandas reads a column of whole numbers as floats if cells are missing. The class names stay the same.
    """
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def find_class_names(labels: pd.Series[Any], kind: str) -> tuple[str, ...]:
    """Return the class names of the labels of train, in order.

    Numbers of every type are ordered by value: as text, 10 would come before 2.

    Args:
        labels: Labels of train; missing ones are ignored.
        kind: `task.kind`. If it is "auto", labels that look like scores are refused.

    Raises:
        UserError: The labels are scores, too many, or differ only in case or blanks; or some of them
            mark rows without a label.
    """
    written = labels.dropna()
    _check_finite(written)
    texts = written.map(label_text)
    counts = Counter(texts)
    check_names(counts)
    if len(counts) > MAX_CLASSES:
        raise UserError(
            f"The label column has {len(counts):,} distinct values. At most {MAX_CLASSES:,} classes are "
            'allowed. Check task.label, or set task.kind = "regression" if the labels are numbers.'
        )
    if kind == "auto":
        _check_scores(list(counts))
        _check_other_forms(list(counts))
        _check_repetition(list(counts), len(texts))
    if all(map(_WHOLE.fullmatch, counts)):
        counts = Counter(map(whole_number, texts))
        _check_unlabelled(counts)

    _check_similar(counts)
    return _sort_names(list(counts))


def _check_finite(labels: pd.Series[Any]) -> None:
    """Refuse infinite numbers, which are the result of a fault and not classes."""
    is_infinite = labels.map(lambda value: isinstance(value, (float, np.floating)) and np.isinf(value))
    bad_rows = is_infinite.to_numpy(bool).nonzero()[0]
    if len(bad_rows):
        raise UserError(
            f"{len(bad_rows):,} rows of train have an infinite label; the first is row "
            f"{labels.index[bad_rows[0]]}. Correct these labels, or remove the rows."
        )


def check_names(names: Iterable[str]) -> None:
    """Refuse class names that are blank, or too long to be names.

    Raises:
        UserError: A name is blank, or has more than MAX_LABEL characters.
    """
    for name in names:
        if not name.strip():
            raise UserError("task.labels contains a blank class name. Remove it, or write the name.")
        if len(name) > MAX_LABEL:
            raise UserError(
                f"The label '{shown(name, 60)}' has {len(name):,} characters; at most {MAX_LABEL} are "
                "allowed. Check that task.label names the label column."
            )


def _sort_names(names: list[str]) -> tuple[str, ...]:
    if all(map(NUMBER.fullmatch, names)):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))


def whole_number(text: str) -> str:
    """Return a whole number without blanks, plus sign and decimal point; other text as it is."""
    match = _WHOLE.fullmatch(text)
    if match is None:
        return text
    sign = "-" if match.group(1) == "-" and match.group(2) != "0" else ""
    return sign + match.group(2)


def _check_scores(names: Sequence[str]) -> None:
    """Refuse numbers with fractions: nobody has said whether they are classes or scores.

    Codes such as 1.1 and 1.10 are not scores, because two of them are the same number.
    """
    if not names or not all(map(NUMBER.fullmatch, names)):
        return
    values = {float(name) for name in names}
    has_fractions = any(not value.is_integer() for value in values)
    if has_fractions and len(values) == len(names):
        listed = ", ".join(_sort_names(list(names))[:MAX_LISTED])
        raise UserError(
            f"The labels of train are {len(names):,} different numbers with fractions ({listed}, ...). "
            'Set task.kind = "regression" if they are scores, or task.kind = "classification" if each '
            "number is the name of a class."
        )


def _check_other_forms(names: Sequence[str]) -> None:
    """Refuse labels that people read as numbers, and many dates, if `task.kind` does not say their kind.

    Codes such as 1,1 and 1,10 are not scores, as with a decimal point. A few dates get a warning only.
    """
    form_of = {name: find_form(name) for name in names if not NUMBER.fullmatch(name)}
    forms = list(dict.fromkeys(form for form in form_of.values() if form is not None))
    if not forms or None in form_of.values() or (DECIMAL_COMMA in forms and are_codes(names)):
        return
    if forms == [DATE] and len(names) <= MANY_CLASSES:
        return

    example = next(name for name, form in form_of.items() if form == forms[0])
    description = f"look like numbers with {' or '.join(forms)}"
    remedy = "numbers with a decimal point and without other signs"
    if DATE in forms:
        description = "look like dates"
        remedy = "numbers, such as days since a date,"
    raise UserError(
        f"The labels of train are {len(names):,} different values that {description}, such as "
        f"'{shown(example, 60)}'. Check task.label. If they are scores, write them as {remedy} and set "
        'task.kind = "regression". If each of them is the name of a class, set task.kind = '
        '"classification".'
    )


def _check_repetition(names: Sequence[str], num_rows: int) -> None:
    """Refuse labels that hardly ever occur twice: they are targets, or another column than the label."""
    are_numbers = all(NUMBER.fullmatch(name) or find_form(name) for name in names)
    least = MIN_ROWS_ANUMBER if are_numbers else MIN_ROWS_A_NAME
    if len(names) <= MANY_CLASSES or num_rows >= least * len(names):
        return
    raise UserError(
        f"The {num_rows:,} rows of train have {len(names):,} different labels. Check task.label. Set "
        'task.kind = "regression" if the labels are numbers to predict, or task.kind = "classification" '
        "if they are classes."
    )


def _check_unlabelled(counts: Counter[str]) -> None:
    """Refuse -1 or -100 next to the classes 0, 1, 2 and so on: it marks rows without a label."""
    for mark, least in UNLABELLED.items():
        others = sorted(int(name) for name in counts if name != mark)
        if mark in counts and len(others) >= least and others == list(range(len(others))):
            raise UserError(
                f"{counts[mark]:,} rows of train have the label {mark}, and the other labels are 0 to "
                f"{others[-1]}. In many datasets, {mark} marks a row without a label. Remove these rows, "
                f'or list all classes in task.labels, with "{mark}", if it is a class.'
            )


def _check_similar(counts: Counter[str]) -> None:
    """Refuse labels that differ only in case, blanks or invisible characters."""
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(plain_form(name), []).append(name)
    similar = [sorted(group) for group in groups.values() if len(group) > 1]
    if similar:
        listed = "; ".join(
            ", ".join(f"'{shown(name, 60)}' ({counts[name]:,} rows)" for name in group)
            for group in sorted(similar)[:MAX_LISTED]
        )
        raise UserError(
            f"Some labels of train differ only in case, blanks or invisible characters: {listed}. "
            "Correct them, or list all classes in task.labels if they are different classes."
        )


def plain_form(text: str) -> str:
    """Return a text without case, with single blanks, and without invisible characters."""
    visible = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return " ".join(visible.casefold().split())


def number_classes(labels: pd.Series[Any], split: str, names: Sequence[str]) -> pd.Series[int]:
    """Return the class numbers of labels: (rows,) int64.

    Args:
        labels: Labels of a split without missing ones.
        split: Name of the split in messages.
        names: Class names in order.

    Raises:
        UserError: A label is not one of the classes. The message names the row.
    """
    texts = labels.map(label_text)
    number_of = {name: number for number, name in enumerate(names)}
    # The same class can be written in another way in another file: 1.0 for 1, true for True.
    whole = {whole_number(name): number for name, number in number_of.items()}
    numbers: dict[str, int | None] = {}
    is_first = ~texts.duplicated()
    for value, text in zip(labels[is_first], texts[is_first], strict=True):
        number = number_of.get(text)
        if number is None and _WHOLE.fullmatch(text):
            number = whole.get(whole_number(text))
        if number is None and isinstance(value, (bool, np.bool_)):
            number = number_of.get(text.lower())
        numbers[text] = number

    result = texts.map(numbers)
    bad_rows = result.isna().to_numpy().nonzero()[0]
    if len(bad_rows):
        row = bad_rows[0]
        text = texts.iloc[row]
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        raise UserError(
            f"Split {split}, row {row}: label '{shown(text, 60)}' is not a class of the task. "
            f"Classes: {', '.join(names[:20])}{more}. {_suggest(text, names)}"
        )
    return result.astype("int64")


def _suggest(text: str, names: Sequence[str]) -> str:
    """Return the remedy for a label that is not one of the classes."""
    similar = [name for name in names if plain_form(name) == plain_form(text)]
    if similar:
        return (
            f"It differs from '{shown(similar[0], 60)}' only in case, blanks or invisible characters. "
            "Correct the label."
        )
    return "Correct the label, or set task.labels."


def without_blank_labels(labels: pd.Series[Any]) -> pd.Series[Any]:
    """Return labels in which a blank text is missing, as an empty cell of a CSV file is."""
    if pd.api.types.is_numeric_dtype(labels):
        return labels
    is_blank = labels.map(lambda value: isinstance(value, str) and not value.strip())
    return labels.mask(is_blank.astype(bool), None) if is_blank.any() else labels
