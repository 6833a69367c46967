"""Draws a searched cell as a picture (SVG), like Figure 3 of the AdaBERT paper."""

from __future__ import annotations

from typing import Any

import jinja2

from raycomp.methods.adabert.structure import CONVOLUTIONS, Structure, cell_edges

# In pixels: between two nodes, of a node, around the picture, and per step that an arc spans.
NODE_DISTANCE, NODE_RADIUS, MARGIN, ARC_HEIGHT = 190, 26, 60, 46
SUM_ARC_HEIGHT = 24


def draw_structure(structure: Structure) -> str:
    """Return an SVG of one cell: the nodes in a row and an arc per edge; edges of `zero` are left out."""
    output = structure.nodes + 2  # position of c(k), the cell's output
    labels = ["c(k-2)", "c(k-1)", *(str(i) for i in range(2, output)), "c(k)"]
    xs = [MARGIN + NODE_DISTANCE * i for i in range(output + 1)]
    shown_edges = [
        (source, target, name)
        for (source, target), name in zip(cell_edges(structure.nodes), structure.operations, strict=True)
        if name != "zero"
    ]
    tallest = max((ARC_HEIGHT * (j - i) for i, j, _ in shown_edges), default=ARC_HEIGHT)
    y = tallest + MARGIN
    nodes = [
        {"x": x, "y": y, "name": label, "inner": 2 <= i < output}
        for i, (x, label) in enumerate(zip(xs, labels, strict=True))
    ]

    # Names come from a structure that a user can give, so the template escapes them.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raycomp.methods.adabert", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("cell.svg.j2").render(
        width=xs[-1] + MARGIN,
        height=y + NODE_RADIUS + SUM_ARC_HEIGHT * (output - 2) + 40,
        nodes=nodes,
        radius=NODE_RADIUS,
        arcs=[_edge_arc(xs[i], xs[j], y, j - i, name) for i, j, name in shown_edges],
        sums=[_sum_arc(xs[i], xs[output], y, output - i) for i in range(2, output)],
        layers=structure.layers,
        described="; ".join(f"{labels[i]} to {labels[j]}: {name}" for i, j, name in shown_edges),
    )


def _edge_arc(start: float, end: float, y: float, span: int, name: str) -> dict[str, Any]:
    """Return the arc above the nodes for an edge that spans `span` nodes, and its label's place."""
    height = ARC_HEIGHT * span
    top = y - NODE_RADIUS
    middle = (start + end) / 2
    if name in CONVOLUTIONS:
        kind = "conv"
    elif "pool" in name:
        kind = "pool"
    else:
        kind = "skip"
    return {
        "path": f"M {start} {top} Q {middle} {top - 2 * height + 20} {end} {top}",
        "x": middle,
        "y": top - height + 6,
        "name": name,
        "kind": kind,
    }


def _sum_arc(start: float, end: float, y: float, span: int) -> str:
    """Return the path of the arc below the nodes, from an inner node to the cell's output."""
    bottom = y + NODE_RADIUS
    return f"M {start} {bottom} Q {(start + end) / 2} {bottom + SUM_ARC_HEIGHT * span} {end} {bottom}"
