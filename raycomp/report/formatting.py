"""Numbers and architectures as short text; a value that is not known becomes an empty text."""

from __future__ import annotations

import math
from typing import Any

from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.methods.adabert.structure import Structure, cell_edges

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
EDGES_PER_LINE = 3
MAX_UNKNOWN_TEXT = 200  # characters that are shown of an architecture in another format


def is_finite_number(value: Any) -> bool:
    """Return whether a value of a table is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _format_finite(value: Any, template: str) -> str:
    """Return a number in a format such as "{:.3f}"; anything else is an empty text."""
    if not is_finite_number(value):
        return ""
    return template.format(value)


def format_text(value: Any) -> str:
    """Return a text of a table; a missing one is empty."""
    # pandas marks a missing text by None or by NaN.
    return value if isinstance(value, str) else ""


def format_count(value: Any) -> str:
    """Return a count with three digits and a unit, such as 12.3M."""
    if not is_finite_number(value):
        return ""
    for size, unit in UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def format_number(value: Any, decimals: int) -> str:
    """Return a number with that many decimals."""
    return _format_finite(value, f"{{:.{decimals}f}}")


def format_score(value: Any) -> str:
    """Return a score with three decimals."""
    return format_number(value, 3)


def format_signed(value: Any) -> str:
    """Return a difference with its sign and three decimals."""
    return _format_finite(value, "{:+.3f}")


def format_latency(value: Any) -> str:
    """Return a latency in milliseconds with one decimal and its unit."""
    return _format_finite(value, "{:.1f} ms")


def format_percent(value: Any) -> str:
    """Return a share as a percentage with one decimal."""
    return _format_finite(value, "{:.1%}")


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 run" or "3 runs"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def parse_architecture(text: Any) -> Architecture | Structure | None:
    """Return the architecture in a table's column `arch`.

    Args:
        text: JSON of an architecture.

    Returns:
        A sub-network, a CNN that AdaBERT searched, or None if the text is neither.
    """
    for kind in (Architecture, Structure):
        try:
            return kind.from_json(str(text))
        except UserError:
            continue
    return None


def describe_architecture(text: Any) -> list[str]:
    """Return the architecture in a table's column `arch` as a few short lines."""
    arch = parse_architecture(text)
    if isinstance(arch, Architecture):
        return [
            f"{arch.depth} layers",
            f"heads {' '.join(map(str, arch.heads))}",
            f"FFN {' '.join(map(str, arch.ffn))}",
        ]

    if isinstance(arch, Structure):
        pairs = zip(cell_edges(arch.nodes), arch.operations, strict=True)
        # The operation "zero" passes nothing on, so its edge is not part of the network.
        used = [f"{source}→{target} {name}" for (source, target), name in pairs if name != "zero"]
        starts = range(0, len(used), EDGES_PER_LINE)
        lines = [", ".join(used[start : start + EDGES_PER_LINE]) for start in starts]
        return [f"{arch.layers} cells", *lines]

    return [str(text)[:MAX_UNKNOWN_TEXT]]
