"""Changes of an architecture: shrink, grow, mutate, cross, and fit to a limit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostFunction
from raycomp.search.space import SearchSpace, draw_uniform


def neighbours(arch: Architecture, space: SearchSpace, direction: int) -> list[Architecture]:
    """Return all architectures one choice smaller (-1) or larger (+1) in one variable."""
    return [make() for make in _list_moves(arch, space, direction)]


def _list_moves(
    arch: Architecture, space: SearchSpace, direction: int
) -> list[Callable[[], Architecture]]:
    """Return a function for each of the `neighbours`, which makes it: a search needs few of them."""
    moves: list[Callable[[], Architecture]] = []
    depth = _shift(space.depth, arch.depth, direction)
    if depth is not None:
        moves.append(functools.partial(_with_depth, arch, depth))

    # In a plain space, the first layer decides for all.
    for i in range(1 if space.is_plain else arch.depth):
        heads = _shift(space.heads, arch.heads[i], direction)
        if heads is not None:
            moves.append(functools.partial(_with_heads, arch, i, heads))
        ffn = _shift(space.ffn, arch.ffn[i], direction)
        if ffn is not None:
            moves.append(functools.partial(_with_ffn, arch, space, i, ffn))

    place = space.tables.index(arch.table) + direction
    if 0 <= place < len(space.tables):
        moves.append(functools.partial(replace, arch, table=space.tables[place]))
    return moves


def shrink_to_limit(
    arch: Architecture,
    space: SearchSpace,
    cost: CostFunction,
    limit: float,
    rng: np.random.Generator,
) -> Architecture | None:
    """Shrink at random until the cost is within the limit.

    Returns:
        The architecture; None when the smallest one exceeds the limit.
    """
    while cost(arch) > limit:
        smaller = _list_moves(arch, space, -1)
        if not smaller:
            return None
        arch = smaller[int(rng.integers(len(smaller)))]()
    return arch


def fit_to_limit(
    arch: Architecture,
    space: SearchSpace,
    cost: CostFunction,
    limit: float,
    rng: np.random.Generator,
) -> Architecture | None:
    """Shrink to the limit, then grow at random as long as the cost stays within it.

    Returns:
        An architecture that uses the budget up; None when the smallest one exceeds the limit.
    """
    fitted = shrink_to_limit(arch, space, cost, limit, rng)
    # Grown to the limit: unused budget would be accuracy given away.
    while fitted is not None:
        larger = _list_moves(fitted, space, 1)
        # The first that fits, in random order, is a uniform draw from all that fit.
        in_random_order = (larger[i]() for i in rng.permutation(len(larger)))
        grown = next((grown for grown in in_random_order if cost(grown) <= limit), None)
        if grown is None:
            return fitted
        fitted = grown
    return None


def cross(
    first: Architecture, second: Architecture, space: SearchSpace, rng: np.random.Generator
) -> Architecture:
    """Take each choice of a layer from one of two parents; a layer that one lacks from the other."""
    depth = (first, second)[int(rng.integers(2))].depth
    heads: list[int] = []
    ffn: list[int] = []
    for layer in range(depth):
        sources = [parent for parent in (first, second) if layer < parent.depth]
        heads.append(sources[int(rng.integers(len(sources)))].heads[layer])
        ffn.append(sources[int(rng.integers(len(sources)))].ffn[layer])
    table = first.table
    if len(space.tables) > 1:
        table = (first, second)[int(rng.integers(2))].table
    return space.equalised(Architecture(depth, tuple(heads), tuple(ffn), table=table))


def mutate(arch: Architecture, space: SearchSpace, rate: float, rng: np.random.Generator) -> Architecture:
    """Draw each variable again with probability `rate`."""
    if rng.random() < rate:
        arch = _with_depth(arch, draw_uniform(space.depth, rng))
    heads = [draw_uniform(space.heads, rng) if rng.random() < rate else h for h in arch.heads]
    ffn = [draw_uniform(space.ffn, rng) if rng.random() < rate else k for k in arch.ffn]
    changed = replace(arch, heads=tuple(heads), ffn=tuple(ffn))
    return space.equalised(mutate_table(changed, space, rate, rng))


def mutate_table(
    arch: Architecture, space: SearchSpace, rate: float, rng: np.random.Generator
) -> Architecture:
    """Draw the word table again with probability `rate`; one table needs no random number."""
    if len(space.tables) > 1 and rng.random() < rate:
        return replace(arch, table=space.sample_table(rng))
    return arch


def _shift(choices: tuple[int, ...], value: int, direction: int) -> int | None:
    """Return the next smaller or larger choice; None at the end."""
    index = choices.index(value) + direction
    if 0 <= index < len(choices):
        return choices[index]
    return None


def _with_depth(arch: Architecture, depth: int) -> Architecture:
    """Cut layers off at the end, or add layers like the last one."""
    added = max(0, depth - arch.depth)
    heads = arch.heads[:depth] + arch.heads[-1:] * added
    ffn = arch.ffn[:depth] + arch.ffn[-1:] * added
    return Architecture(depth, heads, ffn, table=arch.table)


def _with_heads(arch: Architecture, i: int, value: int) -> Architecture:
    """Change the heads of a layer; `dataclasses.replace` takes longer, and a search does this a lot."""
    return Architecture(arch.depth, _replace(arch.heads, i, value), arch.ffn, arch.layers, arch.table)


def _with_ffn(arch: Architecture, space: SearchSpace, i: int, value: int) -> Architecture:
    """Change the neurons of a layer; in a plain space, those of all layers."""
    ffn = _replace(arch.ffn, i, value)
    return space.equalised(Architecture(arch.depth, arch.heads, ffn, arch.layers, arch.table))


def _replace(values: tuple[int, ...], i: int, value: int) -> tuple[int, ...]:
    return (*values[:i], value, *values[i + 1 :])
