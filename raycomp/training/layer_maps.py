"""Which layers of a teacher a student has, and which hidden states of both are matched.

State 0 is the embeddings, state i the output of the i-th layer that the network runs. A student of n
layers has n + 1 states. L is the number of the teacher's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raycomp.arithmetic import ceil_div

LayerMap = Callable[[Sequence[int], int], list[tuple[int, int]]]
"""From the student's layers (their indices in the full network) and L to pairs of states."""


def uniform(layers: Sequence[int], teacher_layers: int) -> list[tuple[int, int]]:
    """Pair every state i with ceil(i L / n): equal strides, the embeddings and the last one included."""
    depth = len(layers)
    return [(i, ceil_div(i * teacher_layers, depth)) for i in range(depth + 1)]


def skip(layers: Sequence[int], teacher_layers: int) -> list[tuple[int, int]]:
    """Pair states 1 to n - 1 with ceil(i L / n) (BERT-PKD's Skip: 2, 4, 6, 8, 10 for 6 of 12)."""
    return uniform(layers, teacher_layers)[1:-1]


def last(layers: Sequence[int], teacher_layers: int) -> list[tuple[int, int]]:
    """Pair states 1 to n - 1 with L - n + i (BERT-PKD's Last: 7 to 11 for 6 of 12)."""
    depth = len(layers)
    return [(i, teacher_layers - depth + i) for i in range(1, depth)]


def same(layers: Sequence[int], teacher_layers: int) -> list[tuple[int, int]]:
    """Pair every state with the teacher's state after the same layer (DynaBERT, LayerDrop).

    Raises:
        ValueError: The teacher has fewer layers.
    """
    if layers and layers[-1] >= teacher_layers:
        raise ValueError(f"the student runs layer {layers[-1]}; the teacher has {teacher_layers} layers")
    return [(0, 0), *((i + 1, layer + 1) for i, layer in enumerate(layers))]


def spread_layers(teacher_layers: int, depth: int) -> tuple[int, ...]:
    """Return equally spaced layers from the first to the last (DistilBERT: 0, 2, 4, 7, 9, 11)."""
    # The formula divides by the number of gaps.
    if depth == 1:
        return (0,)
    return tuple(round(i * (teacher_layers - 1) / (depth - 1)) for i in range(depth))


def every_other_layers(teacher_layers: int, depth: int) -> tuple[int, ...]:
    """Return the layers floor(i L / n) (LayerDrop, DynaBERT: 0, 2, 4, 6, 8, 10 for 6 of 12)."""
    return tuple(i * teacher_layers // depth for i in range(depth))


LAYER_MAPS: dict[str, LayerMap] = {"uniform": uniform, "skip": skip, "last": last, "same": same}


def layer_pairs(
    chosen_map: str | LayerMap, layers: Sequence[int], teacher_layers: int
) -> list[tuple[int, int]]:
    """Return the pairs (student state, teacher state) of a map, given by name or as a function.

    Args:
        chosen_map: Key of `LAYER_MAPS`, or a function.
        layers: Indices of the layers that the student runs, ascending.
        teacher_layers: Number of the teacher's layers, L.

    Raises:
        ValueError: The name is unknown.
    """
    if callable(chosen_map):
        return chosen_map(layers, teacher_layers)
    if chosen_map not in LAYER_MAPS:
        raise ValueError(f"layer map {chosen_map!r} is unknown; allowed: {', '.join(LAYER_MAPS)}")
    return LAYER_MAPS[chosen_map](layers, teacher_layers)
