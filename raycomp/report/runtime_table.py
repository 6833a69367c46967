"""The files of a run in its runtimes: deployed models next to the teacher in fp32 and in INT8."""

from __future__ import annotations

from typing import Any

import pandas as pd

from raycomp.report.formatting import format_number, format_percent, format_score
from raycomp.report.text_table import TextTable

LIBRARIES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""Library of each runtime, as labels name it."""

PRECISIONS = {
    "onnxruntime": "fp32",
    "onnxruntime-int8": "INT8",
    "openvino": "OpenVINO fp32",
    "openvino-int8": "OpenVINO INT8",
}
"""Precision of each runtime, as labels name it, with the library unless it is ONNX Runtime."""

CONDITIONS = ["threads", "batch", "length", "lengths"]
"""Columns of table `runtimes` that a comparison of times needs to be equal."""

RUNTIME_MEANINGS = {
    "file": "model, precision, and library unless it is ONNX Runtime",
    "threads": "threads of one operation",
    "batch": "texts of a forward pass",
    "length": "tokens of a text; of a sample of lengths, the shortest and the longest",
    "p50_ms": "median time of one forward pass of the file in its library, in milliseconds",
    "p95_ms": "95th percentile of this time",
    "speedup": "time of the teacher in INT8 in the same library, which a user would deploy without "
    "compression, over that of the file; both are timed in turns",
    "size_mb": "size of the file in MB",
    "selection": "score on the selection split, computed by the file",
    "validation": "score on the validation split, computed by the file",
    "retention": "validation divided by the teacher's validation score",
}


def list_files(runtimes: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of table `runtimes`, each file once, with columns of its own.

    These are `file`, `library` (a key of `LIBRARIES`) and `retention`.
    Each method times the teacher next to its own models: the first of these rows is kept.
    """
    keys = ["run", "method", "budget", "runtime", *CONDITIONS]
    # A comparison of missing values would leave the rows of one length out.
    rows = runtimes.assign(lengths=runtimes["lengths"].fillna("")).drop_duplicates(keys).copy()
    is_teacher = rows["method"] == "teacher"
    names = (rows["method"] + " " + rows["budget"]).where(~is_teacher, "teacher")
    rows["file"] = names + ", " + rows["runtime"].map(PRECISIONS).astype(object)

    rows["library"] = rows["runtime"].str.removesuffix("-int8")
    is_full = is_teacher & (rows["runtime"] == rows["library"])
    full = rows[is_full].groupby(["run", "library"])["validation"].first()
    of_row = full.reindex(pd.MultiIndex.from_frame(rows[["run", "library"]]))
    rows["retention"] = rows["validation"] / of_row.to_numpy()
    return rows


def build_runtime_table(runtimes: pd.DataFrame) -> TextTable | None:
    """Return the files as a table; None for runs without a budget for a device with such a runtime.

    Args:
        runtimes: Table `runtimes` of one run or of several.
    """
    if runtimes.empty:
        return None
    files = list_files(runtimes)
    has_several_runs = files["run"].nunique() > 1
    columns = ["run"] * has_several_runs + list(RUNTIME_MEANINGS)
    rows = [
        [str(row["run"])] * has_several_runs + _write_file(row)
        for row in files.sort_values(CONDITIONS, kind="stable").to_dict("records")
    ]
    present = [label for name, label in LIBRARIES.items() if name in set(files["library"])]
    return TextTable(" and ".join(present), columns, rows, named=1 + has_several_runs)


def _write_file(row: dict[Any, Any]) -> list[str]:
    return [
        row["file"],
        str(row["threads"]),
        str(row["batch"]),
        row["lengths"] or str(row["length"]),
        format_number(row["p50_ms"], 2),
        format_number(row["p95_ms"], 2),
        format_number(row["speedup"], 2),
        format_number(row["size_mb"], 1),
        format_score(row["selection"]),
        format_score(row["validation"]),
        format_percent(row["retention"]),
    ]
