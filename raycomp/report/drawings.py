"""Drawings of the deployed architectures: bars for each layer, or the graph of a searched cell."""

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
from raycomp.report.loading import RunTables
from raycomp.report.run_record import RunRecord


def build_drawings(tables: RunTables) -> list[dict[str, Any]]:
    """Return what the page draws of each deployed model of one run.

    Each drawing has `title`, `figures`, `label` (its text alternative) and a `kind`: "layers" with
    `layers`, "cell" with `uri`, or "text" with `lines` for an architecture in another format.
    """
    rows = tables.deployments[tables.deployments["arch"].notna()].to_dict("records")
    full = find_largest_architecture(tables)
    tuned = tables.runs[0].tuned if tables.runs else {}
    return [{**_build_caption(row, tuned), **_build_drawing(row, full)} for row in rows]


def _build_caption(row: dict[Any, Any], tuned: dict[str, dict[str, Any]]) -> dict[str, str]:
    figures = f"{format_count(row['params'])} params, validation {format_score(row['validation'])}"
    if row["method"] == "yoco" and row["budget"] in tuned:
        figures += f", fine-tuned {format_score(tuned[row['budget']]['validation'])}"
    return {"title": f"{row['method']} {row['budget']}", "figures": figures}


def _build_drawing(row: dict[Any, Any], full: Architecture | None) -> dict[str, Any]:
    arch = parse_architecture(row["arch"])
    if isinstance(arch, Structure):
        # The drawing is an image: its element ids cannot collide with the page's, and no script in it
        # runs.
        data = base64.b64encode(draw_structure(arch).encode()).decode()
        label = f"One cell as a graph: {'; '.join(describe_architecture(row['arch']))}."
        return {"kind": "cell", "uri": f"data:image/svg+xml;base64,{data}", "label": label}

    if isinstance(arch, Architecture) and full is not None:
        layers = [_build_layer(index, arch, full) for index in range(max(full.depth, arch.depth))]
        descriptions = "; ".join(_describe_layer(layer) for layer in layers)
        size = f"{full.depth} layers with {full.heads[0]} heads and {full.ffn[0]} FFN neurons"
        return {"kind": "layers", "layers": layers, "label": f"Of {size}: {descriptions}."}

    return {"kind": "text", "lines": describe_architecture(row["arch"]), "label": ""}


def _build_layer(index: int, arch: Architecture, full: Architecture) -> dict[str, Any]:
    """Return one layer: its sizes as text, and its shares of the full layer in 0..1."""
    if index >= arch.depth:
        return {"number": index + 1, "is_kept": False}

    full_index = min(index, full.depth - 1)
    heads = arch.heads[index]
    ffn = arch.ffn[index]
    return {
        "number": index + 1,
        "is_kept": True,
        "heads": f"{heads} of {full.heads[full_index]}",
        "ffn": f"{ffn} of {full.ffn[full_index]}",
        "heads_share": min(1.0, heads / full.heads[full_index]),
        "ffn_share": min(1.0, ffn / full.ffn[full_index]),
    }


def _describe_layer(layer: dict[str, Any]) -> str:
    sizes = "removed"
    if layer["is_kept"]:
        sizes = f"{layer['heads']} heads, {layer['ffn']} FFN neurons"
    return f"layer {layer['number']}: {sizes}"


def find_largest_architecture(tables: RunTables) -> Architecture | None:
    """Return the largest sub-network of a run's search space, or None if the run does not tell.

    The sizes come from the network's configuration and the job's space. A run that did not record its
    configuration has them in the architecture distribution, which names every choice, and in the deployed
    architectures.
    """
    if tables.runs:
        architecture = _largest_in_space(tables.runs[0])
        if architecture is not None:
            return architecture

    depths, heads, ffns = _read_choices(tables)
    for text in tables.deployments["arch"].dropna().unique():
        arch = parse_architecture(text)
        if isinstance(arch, Architecture):
            depths.append(arch.depth)
            heads.extend(arch.heads)
            ffns.extend(arch.ffn)

    if not any(depths) or not any(heads) or not any(ffns):
        return None
    depth = max(depths)
    return Architecture(depth, (max(heads),) * depth, (max(ffns),) * depth)


def _largest_in_space(run: RunRecord) -> Architecture | None:
    """Return the network's own sizes, limited to the largest values of the job's space."""
    try:
        config = run.facts["config"]
        heads = tuple(map(int, config["layer_heads"]))
        ffns = tuple(map(int, config["layer_ffn"]))
    except (KeyError, TypeError, ValueError):
        return None

    def limit(key: str, size: int) -> int:
        values = run.setting("space", key)
        # A setting that the job leaves out allows the network's own size.
        if not isinstance(values, list) or not values:
            return size
        return min(size, max(values))

    depth = limit("depth", len(heads))
    if not depth:
        return None
    return Architecture(
        depth,
        tuple(limit("heads", size) for size in heads[:depth]),
        tuple(limit("ffn", size) for size in ffns[:depth]),
    )


def _read_choices(tables: RunTables) -> tuple[list[int], list[int], list[int]]:
    """Return all depths, numbers of heads and FFN sizes that the architecture distribution names."""
    depths: list[int] = []
    heads: list[int] = []
    ffns: list[int] = []
    choices = tables.distribution[["variable", "choice"]].drop_duplicates().dropna()
    for variable, choice in choices.itertuples(index=False):
        # A variable is "depth", "heads.3", "ffn.3", or the joint "layer.3" with choices such as
        # "12x1536".
        kind = str(variable).partition(".")[0]
        sizes = _parse_sizes(choice)
        if kind == "layer" and len(sizes) == 2:
            heads.append(sizes[0])
            ffns.append(sizes[1])
        elif len(sizes) == 1:
            targets = {"depth": depths, "heads": heads, "ffn": ffns}
            targets.get(kind, []).append(sizes[0])
    return depths, heads, ffns


def _parse_sizes(choice: Any) -> list[int]:
    """Return the numbers of "512" or "12x1536"; any other text gives none."""
    parts = str(choice).split("x")
    if not all(part.isdecimal() for part in parts):
        return []
    return [int(part) for part in parts]
