"""The index page of a family of exports: every file of every model in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from raycomp.deployment.certificate import judge_file
from raycomp.storage.files import write_json, write_text

PAGE = "index.html"
TABLE = "index.json"


def write_family_page(out: Path, run: str, certificates: Sequence[Mapping[str, Any]]) -> None:
    """Write the page, and its rows as JSON.

    Args:
        out: Directory of the family.
        run: Name of the run.
        certificates: One per model; the key `out` has the name of its folder.
    """
    rows = family_rows(certificates)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raycomp.deployment", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("family.html.j2").render(
        run=run,
        rows=rows,
        conditions=_conditions(certificates),
        notes=[(c["out"], note) for c in certificates for note in c["notes"]],
        machine=certificates[-1]["machine"],
        metric=certificates[-1]["metric"],
        selection_metric=certificates[-1].get("selection_metric", certificates[-1]["metric"]),
    )
    write_text(out / PAGE, page)
    write_json(out / TABLE, {"run": run, "files": rows})


def family_rows(certificates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per file: model, file, size, memory, scores, latencies and verdict."""
    rows = []
    for certificate in certificates:
        for entry in certificate["files"]:
            row = {
                "model": certificate["out"],
                "file": entry["file"],
                "runtime": entry["runtime"],
                "precision": entry["precision"],
                "params": certificate["params"],
                "size_mb": entry["size_mb"],
                "memory_mb": entry["memory_mb"],
                "selection": entry["selection"],
                "loss": entry["loss"],
                "validation": certificate.get("validation"),
                "verdict": judge_file(certificate["limits"], entry["file"]),
            }
            # One column per condition: a table of pandas needs no unpacking.
            for latency in entry["latencies"]:
                condition = f"b{latency['batch']}_l{latency['length']}"
                row[f"p50_ms_{condition}"] = latency["p50_ms"]
                row[f"p95_ms_{condition}"] = latency["p95_ms"]
            rows.append(row)

    return rows


def _conditions(certificates: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Return the batch sizes and lengths at which the files were timed."""
    latencies = certificates[0]["files"][0]["latencies"]
    return [(latency["batch"], latency["length"]) for latency in latencies]
