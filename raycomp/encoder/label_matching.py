"""Which output of a fine-tuned classifier is which class of the task."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from raycomp.errors import shown

# Names that transformers gives outputs that nobody has named.
_GENERIC_NAME = re.compile(r"label_?\d+", re.IGNORECASE)
_WHOLE = re.compile(r"\s*([-+]?\d+)(?:\.0*)?\s*")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


def match_outputs(
    output_names: Mapping[int, str], classes: Sequence[str], in_order: bool
) -> list[int] | None:
    """Return the output of each class; None where the outputs are the classes in order.

    Names are compared without case, spaces, hyphens and underscores. Where the model's names are generic,
    or the classes are numbers, only the order is known.

    Args:
        output_names: Output -> name, a configuration's `id2label`.
        classes: Classes of the task, in its order.
        in_order: Whether the user has listed the classes in the order of the outputs.

    Raises:
        ValueError: The names differ: outputs and classes cannot be matched.
    """
    names = [str(output_names.get(i, "")) for i in range(len(classes))]
    form = _matching_form(names, classes)
    if form is not None:
        output_of = {form(name): i for i, name in enumerate(names)}
        order = [output_of[form(name)] for name in classes]
        return None if order == list(range(len(order))) else order

    # Names such as LABEL_0 or numbers do not say which class they are: the order is all there is.
    if in_order or has_generic_names(names) or all(map(_NUMBER.fullmatch, classes)):
        return None
    raise ValueError(
        f"outputs named {list_names(names)}, but the task's classes are {list_names(classes)}"
    )


def names_match(output_names: Sequence[str], classes: Sequence[str]) -> bool:
    """Return whether the names of the outputs are all different and are those of the classes.

    Args:
        output_names: Name of each output.
        classes: Classes of the task.
    """
    return _matching_form(output_names, classes) is not None


def has_generic_names(names: Sequence[str]) -> bool:
    """Return whether all names of outputs are those that transformers gives, such as LABEL_0."""
    return all(_GENERIC_NAME.fullmatch(str(name)) for name in names)


def _matching_form(output_names: Sequence[str], classes: Sequence[str]) -> Callable[[str], str] | None:
    """Return the strictest form of a name in which outputs and classes are the same; None without one.

    The classes "1_1" and "11" differ as they are written, and not in the last form.
    """
    for form in (str, _plain_number, _normalise):
        outputs = set(map(form, output_names))
        if len(outputs) == len(output_names) and outputs == set(map(form, classes)):
            return form
    return None


def _plain_number(name: str) -> str:
    """Return a whole number without decimal point; other text as it is."""
    match = _WHOLE.fullmatch(name)
    return name if match is None else match.group(1)


def _normalise(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def list_names(names: Sequence[str]) -> str:
    """Return the first names, each cut, as text for a message."""
    text = ", ".join(shown(name, 40) for name in names[:10])
    return f"{text}, ..." if len(names) > 10 else text
