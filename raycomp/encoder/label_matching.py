"""Which output of a fine-tuned classifier is which class of the task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from raycomp.errors import shown

# Names that transformers gives outputs that nobody has named.
_GENERIC_NAME = re.compile(r"label_?\d+", re.IGNORECASE)
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
    if names_match(names, classes):
        output_of = {_normalise(name): i for i, name in enumerate(names)}
        order = [output_of[_normalise(name)] for name in classes]
        return None if order == list(range(len(order))) else order

    # Names such as LABEL_0 or numbers do not say which class they are: the order is all there is.
    has_generic_names = all(map(_GENERIC_NAME.fullmatch, names))
    if in_order or has_generic_names or all(map(_NUMBER.fullmatch, classes)):
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
    normalised_names = {_normalise(name) for name in output_names}
    is_unique = len(normalised_names) == len(output_names)
    return is_unique and normalised_names == {_normalise(name) for name in classes}


def _normalise(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def list_names(names: Sequence[str]) -> str:
    """Return the first names, each cut, as text for a message."""
    text = ", ".join(shown(name, 40) for name in names[:10])
    return f"{text}, ..." if len(names) > 10 else text
