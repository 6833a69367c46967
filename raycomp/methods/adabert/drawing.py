"""A searched cell as a picture (SVG), like Figure 3 of the paper."""

from __future__ import annotations

import jinja2

from raycomp.methods.adabert.structure import CONVOLUTIONS, Structure, cell_edges

STEP, RADIUS, MARGIN, ARC = 190, 26, 60, 46


def draw_structure(structure: Structure) -> str:
    """Return an SVG of one cell: nodes in a row, an arc per edge, edges of `zero` left out."""
    count = structure.nodes + 2
    names = ["c(k-2)", "c(k-1)", *(str(i) for i in range(2, count)), "c(k)"]
    xs = [MARGIN + STEP * i for i in range(count + 1)]
    shown = [
        (i, j, name)
        for (i, j), name in zip(cell_edges(structure.nodes), structure.operations, strict=True)
        if name != "zero"
    ]
    tallest = max([ARC * (j - i) for i, j, _ in shown], default=ARC)
    y = tallest + MARGIN
    arcs = []
    for i, j, name in shown:
        height = ARC * (j - i)
        kind = "conv" if name in CONVOLUTIONS else ("pool" if "pool" in name else "skip")
        arcs.append(
            {
                "path": f"M {xs[i]} {y - RADIUS} Q {(xs[i] + xs[j]) / 2} {y - RADIUS - 2 * height + 20} "
                f"{xs[j]} {y - RADIUS}",
                "x": (xs[i] + xs[j]) / 2,
                "y": y - RADIUS - height + 6,
                "name": name,
                "kind": kind,
            }
        )
    sums = [
        f"M {xs[i]} {y + RADIUS} Q {(xs[i] + xs[count]) / 2} {y + RADIUS + 24 * (count - i)} "
        f"{xs[count]} {y + RADIUS}"
        for i in range(2, count)
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raycomp.methods.adabert", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("cell.svg.j2").render(
        width=xs[-1] + MARGIN,
        height=y + RADIUS + 24 * (count - 2) + 40,
        nodes=[
            {"x": x, "y": y, "name": name, "inner": 2 <= i < count}
            for i, (x, name) in enumerate(zip(xs, names, strict=True))
        ],
        radius=RADIUS,
        arcs=arcs,
        sums=sums,
        layers=structure.layers,
        described="; ".join(f"{names[i]} to {names[j]}: {name}" for i, j, name in shown),
    )
