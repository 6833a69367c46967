"""Figures and architectures as short text."""

from __future__ import annotations

import math
from typing import Any

from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.methods.adabert.structure import Structure, cell_edges

KIND_UNITS = {"params": "params", "encoder_params": "encoder", "flops": "FLOPs", "latency_ms": "ms"}


def is_finite_number(value: Any) -> bool:
    """Return whether a cell holds a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def format_count(value: Any) -> str:
    """Write a count with three digits and a unit: 12.3M. An unknown one is empty."""
    if not is_finite_number(value):
        return ""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def format_score(value: Any) -> str:
    """Write a score with three decimals; an unknown one is empty."""
    return f"{value:.3f}" if is_finite_number(value) else ""


def format_signed(value: Any) -> str:
    """Write a difference with its sign and three decimals; an unknown one is empty."""
    return f"{value:+.3f}" if is_finite_number(value) else ""


def format_latency(value: Any) -> str:
    """Write a latency; an unknown one is empty."""
    return f"{value:.1f} ms" if is_finite_number(value) else ""


def format_percent(value: Any) -> str:
    """Write a share as a percentage; an unknown one is empty."""
    return f"{100 * value:.1f}%" if is_finite_number(value) else ""


def parse_architecture(text: Any) -> Architecture | Structure | None:
    """Read the `arch` of a row: a sub-network, a searched CNN, or None where it is neither."""
    for kind in (Architecture, Structure):
        try:
            return kind.from_json(str(text))
        except UserError:
            continue
    return None


def describe_architecture(text: Any) -> list[str]:
    """Write the `arch` of a row as a few lines."""
    arch = parse_architecture(text)
    if isinstance(arch, Architecture):
        return [
            f"{arch.depth} layers",
            f"heads {' '.join(map(str, arch.heads))}",
            f"FFN {' '.join(map(str, arch.ffn))}",
        ]
    if isinstance(arch, Structure):
        pairs = zip(cell_edges(arch.nodes), arch.operations, strict=True)
        used = [f"{i}→{j} {name}" for (i, j), name in pairs if name != "zero"]
        return [f"{arch.layers} cells", *(", ".join(used[i : i + 3]) for i in range(0, len(used), 3))]
    return [str(text)[:200]]
