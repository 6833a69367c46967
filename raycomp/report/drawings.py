"""Each deployed architecture as a drawing: bars per layer, or the graph of a searched cell."""

from __future__ import annotations

import base64
from typing import Any

from raycomp.encoder.architecture import Architecture
from raycomp.methods.adabert.drawing import draw_structure
from raycomp.methods.adabert.structure import Structure
from raycomp.report.formatting import (
    describe_architecture,
    format_count,
    format_score,
    parse_architecture,
)
from raycomp.report.loading import RunRecord, RunTables


def build_drawings(tables: RunTables) -> list[dict[str, Any]]:
    """Return what the page draws of each deployed model of one run.

    Each has `title`, `figures`, `label` (its text alternative) and a `kind`: "layers" with `layers`,
    "cell" with `uri`, or "text" with `lines`, where `arch` is neither a sub-network nor a CNN.
    """
    rows = tables.deployments[tables.deployments["arch"].notna()].to_dict("records")
    full = find_largest_architecture(tables)
    tuned = tables.runs[0].tuned if tables.runs else {}
    return [{**_frame(row, tuned), **_drawing(row, full)} for row in rows]


def _frame(row: dict[Any, Any], tuned: dict[str, dict[str, Any]]) -> dict[str, str]:
    figures = f"{format_count(row['params'])} params, validation {format_score(row['validation'])}"
    if row["method"] == "yoco" and row["budget"] in tuned:
        figures += f", fine-tuned {format_score(tuned[row['budget']]['validation'])}"
    return {"title": f"{row['method']} {row['budget']}", "figures": figures}


def _drawing(row: dict[Any, Any], full: Architecture | None) -> dict[str, Any]:
    arch = parse_architecture(row["arch"])
    if isinstance(arch, Structure):
        # As an image: the drawing's ids stay its own, and nothing in it can run.
        data = base64.b64encode(draw_structure(arch).encode()).decode()
        label = f"One cell as a graph: {'; '.join(describe_architecture(row['arch']))}."
        return {"kind": "cell", "uri": f"data:image/svg+xml;base64,{data}", "label": label}
    if isinstance(arch, Architecture) and full is not None:
        layers = [_layer(i, arch, full) for i in range(max(full.depth, arch.depth))]
        said = "; ".join(
            f"layer {layer['number']}: "
            + (f"{layer['heads']} heads, {layer['ffn']} FFN neurons" if layer["kept"] else "left out")
            for layer in layers
        )
        label = (
            f"Of {full.depth} layers with {full.heads[0]} heads and {full.ffn[0]} FFN neurons: {said}."
        )
        return {"kind": "layers", "layers": layers, "label": label}
    return {"kind": "text", "lines": describe_architecture(row["arch"]), "label": ""}


def _layer(index: int, arch: Architecture, full: Architecture) -> dict[str, Any]:
    """Return one layer: its figures as text, and its shares of the full layer in 0..1."""
    most = min(index, full.depth - 1)
    if index >= arch.depth:
        return {"number": index + 1, "kept": False}
    heads, ffn = arch.heads[index], arch.ffn[index]
    return {
        "number": index + 1,
        "kept": True,
        "heads": f"{heads} of {full.heads[most]}",
        "ffn": f"{ffn} of {full.ffn[most]}",
        "heads_share": min(1.0, heads / full.heads[most]),
        "ffn_share": min(1.0, ffn / full.ffn[most]),
    }


def find_largest_architecture(tables: RunTables) -> Architecture | None:
    """Return the largest sub-network of a run's space, None where nothing tells it.

    The network's own sizes tell it, as far as the job's space goes; of a run that kept none, theta, which
    names every choice, and then the largest of what was deployed.
    """
    known = _of_the_network(tables.runs[0]) if tables.runs else None
    if known is not None:
        return known
    depth, heads, ffn = [0], [0], [0]
    choices = tables.distribution[["variable", "choice"]].drop_duplicates().dropna()
    for variable, choice in choices.itertuples(index=False):
        name = str(variable).partition(".")[0]
        if name in ("depth", "heads", "ffn", "layer"):
            sizes = _sizes(choice, 2 if name == "layer" else 1)
            for into, size in zip({"depth": [depth], "heads": [heads], "ffn": [ffn]}.get(
                name, [heads, ffn]), sizes, strict=False):  # fmt: skip
                into.append(size)
    for text in tables.deployments["arch"].dropna().unique():
        arch = parse_architecture(text)
        if isinstance(arch, Architecture):
            depth.append(arch.depth)
            heads.extend(arch.heads)
            ffn.extend(arch.ffn)
    d = max(depth)
    return Architecture(d, (max(heads),) * d, (max(ffn),) * d) if d and max(heads) and max(ffn) else None


def _of_the_network(run: RunRecord) -> Architecture | None:
    try:
        config = run.facts["config"]
        heads, ffn = (tuple(map(int, config[key])) for key in ("layer_heads", "layer_ffn"))
    except (KeyError, TypeError, ValueError):
        return None

    def most(key: str) -> int | None:
        given = run.setting("space", key)
        return max(given) if isinstance(given, list) and given else None

    depth = min(len(heads), most("depth") or len(heads))
    if not depth:
        return None
    return Architecture(
        depth,
        tuple(min(h, most("heads") or h) for h in heads[:depth]),
        tuple(min(f, most("ffn") or f) for f in ffn[:depth]),
    )


def _sizes(choice: Any, count: int) -> list[int]:
    """Read "512", or "12x1536" of a joint variable; what is neither gives nothing."""
    parts = str(choice).split("x")
    return [int(p) for p in parts] if len(parts) == count and all(p.isdecimal() for p in parts) else []
