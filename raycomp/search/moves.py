"""Small changes of an architecture: shrink, grow, mutate, and fit to a limit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.search.space import SearchSpace

CostFunction = Callable[[Architecture], float]


def neighbours(arch: Architecture, space: SearchSpace, direction: int) -> list[Architecture]:
    """Return all architectures one choice smaller (-1) or larger (+1) in one variable."""
    found = []
    d = space.depth.index(arch.depth) + direction
    if 0 <= d < len(space.depth):
        found.append(_with_depth(arch, space.depth[d]))
    for i in range(arch.depth):
        h = space.heads.index(arch.heads[i]) + direction
        if 0 <= h < len(space.heads):
            found.append(Architecture(arch.depth, _put(arch.heads, i, space.heads[h]), arch.ffn))
        k = space.ffn.index(arch.ffn[i]) + direction
        if 0 <= k < len(space.ffn):
            found.append(Architecture(arch.depth, arch.heads, _put(arch.ffn, i, space.ffn[k])))
    return found


def shrink_to_limit(
    arch: Architecture, space: SearchSpace, cost: CostFunction, limit: float, rng: np.random.Generator
) -> Architecture | None:
    """Shrink at random until the limit is met; None when the smallest network does not meet it."""
    while cost(arch) > limit:
        smaller = neighbours(arch, space, -1)
        if not smaller:
            return None
        arch = smaller[int(rng.integers(len(smaller)))]
    return arch


def fit_to_limit(
    arch: Architecture, space: SearchSpace, cost: CostFunction, limit: float, rng: np.random.Generator
) -> Architecture | None:
    """Repair, then grow at random while the limit still holds: a budget is there to be used."""
    fitted = shrink_to_limit(arch, space, cost, limit, rng)
    while fitted is not None:
        larger = [a for a in neighbours(fitted, space, 1) if cost(a) <= limit]
        if not larger:
            return fitted
        fitted = larger[int(rng.integers(len(larger)))]
    return None


def mutate(arch: Architecture, space: SearchSpace, rate: float, rng: np.random.Generator) -> Architecture:
    """Redraw each variable with probability `rate`."""
    if rng.random() < rate:
        arch = _with_depth(arch, int(rng.choice(space.depth)))
    heads = [int(rng.choice(space.heads)) if rng.random() < rate else h for h in arch.heads]
    ffn = [int(rng.choice(space.ffn)) if rng.random() < rate else k for k in arch.ffn]
    return Architecture(arch.depth, tuple(heads), tuple(ffn))


def _with_depth(arch: Architecture, depth: int) -> Architecture:
    """Cut layers off, or repeat the last layer's choices."""
    more = max(0, depth - arch.depth)
    heads = arch.heads[:depth] + arch.heads[-1:] * more
    return Architecture(depth, heads, arch.ffn[:depth] + arch.ffn[-1:] * more)


def _put(values: tuple[int, ...], i: int, value: int) -> tuple[int, ...]:
    return (*values[:i], value, *values[i + 1 :])
