"""Which output of a fine-tuned classifier is which class of the task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_GENERIC = re.compile(r"label_?\d+", re.IGNORECASE)  # transformers' own, where nobody named them
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


def match_outputs(named: Mapping[int, str], classes: Sequence[str], in_order: bool) -> list[int] | None:
    """Return the output that stands for each class; None: the classes are the outputs, in order.

    Names are compared without case, spaces, hyphens and underscores. Where the model has none of its own,
    or the classes are numbers, the order is all that is known.

    Args:
        named: output -> name, a configuration's `id2label`.
        classes: the task's, in its order.
        in_order: the user has said that the classes stand in the outputs' order.

    Raises:
        ValueError: both have names, and they differ: which is which cannot be known.
    """
    names = [str(named.get(i, "")) for i in range(len(classes))]
    outputs = {_plain(name): i for i, name in enumerate(names)}
    wanted = [_plain(name) for name in classes]
    if len(outputs) == len(names) and set(outputs) == set(wanted):
        order = [outputs[name] for name in wanted]
        return None if order == list(range(len(order))) else order
    if in_order or all(map(_GENERIC.fullmatch, names)) or all(map(_NUMBER.fullmatch, classes)):
        return None
    raise ValueError(f"outputs named {_listed(names)}, but the task's classes are {_listed(classes)}")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(n[:40] for n in names[:10]) + (", ..." if len(names) > 10 else "")
