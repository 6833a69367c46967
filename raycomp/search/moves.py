"""Changes of an architecture: shrink, grow, mutate, cross, and fit to a limit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from raycomp.encoder.architecture import Architecture, WordTable
from raycomp.encoder.cost import CostFunction
from raycomp.search.space import SearchSpace, draw_uniform


def neighbours(arch: Architecture, space: SearchSpace, direction: int) -> list[Architecture]:
    """Return all architectures one choice smaller (-1) or larger (+1) in one variable.

    Word tables are in the order of their parameters.
    """
    changed = [make() for make in _list_layer_moves(arch, space, direction)]
    place = space.tables.index(arch.table) + direction
    if 0 <= place < len(space.tables):
        changed.append(replace(arch, table=space.tables[place]))
    return changed


def _list_layer_moves(
    arch: Architecture, space: SearchSpace, direction: int
) -> list[Callable[[], Architecture]]:
    """Return a function for each of the `neighbours` with this table: a search needs few of them."""
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
    return moves


def _order_tables(arch: Architecture, space: SearchSpace, cost: CostFunction) -> list[WordTable]:
    """Return the word tables in ascending order of an architecture's cost with each of them.

    It can differ from the order of parameters: a rank saves parameters and adds FLOPs. Tables that cost
    the same stay in the order of their parameters.
    """
    if len(space.tables) == 1:
        return list(space.tables)
    return sorted(space.tables, key=lambda table: cost(replace(arch, table=table)))


def _with_larger_table(
    arch: Architecture, space: SearchSpace, cost: CostFunction, limit: float
) -> Architecture:
    """Return an architecture with the first table of more parameters that is within the limit.

    If none is within the limit, the table is the next one.
    """
    place = space.tables.index(arch.table) + 1
    larger = [replace(arch, table=table) for table in space.tables[place:]]
    return next((changed for changed in larger if cost(changed) <= limit), larger[0])


def shrink_to_limit(
    arch: Architecture,
    space: SearchSpace,
    cost: CostFunction,
    limit: float,
    rng: np.random.Generator,
) -> Architecture | None:
    """Shrink at random until the cost is within the limit.

    Returns:
        The architecture; None when the cheapest one exceeds the limit.
    """
    tables: list[WordTable] = []
    while cost(arch) > limit:
        tables = tables or _order_tables(arch, space, cost)
        smaller = _list_layer_moves(arch, space, -1)
        if not smaller:
            # With several limits, the order of the tables can depend on the layers.
            tables = _order_tables(arch, space, cost)

        place = tables.index(arch.table)
        if place:
            smaller.append(functools.partial(replace, arch, table=tables[place - 1]))

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
        An architecture that uses the budget up; None when the cheapest one exceeds the limit.
    """
    fitted = shrink_to_limit(arch, space, cost, limit, rng)
    # Grown to the limit: unused budget would be accuracy given away.
    while fitted is not None:
        larger = _list_layer_moves(fitted, space, 1)
        if fitted.table != space.tables[-1]:
            larger.append(functools.partial(_with_larger_table, fitted, space, cost, limit))
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
