"""The command `raycomp export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from raycomp.cli.options import AllowCode, AsJson, RunPlace
from raycomp.cli.output import print_certificates, print_json
from raycomp.errors import UserError

FAILED_LIMIT = 1
"""Exit code where no file of a model meets all limits; a mistake of the user's has exit code 2."""


Budget = Annotated[
    str | None, typer.Option("--budget", help='Name of the budget, METHOD-BUDGET, or "teacher".')
]
AllBudgets = Annotated[
    bool, typer.Option("--all-budgets", help="Write the teacher and the models of all budgets.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="New directory. Default with --all-budgets: RUN/models.")
]
Formats = Annotated[
    str,
    typer.Option(
        "--formats",
        metavar="NAMES",
        help="Formats to write and to measure, with commas: transformers (always written), plain, onnx, "
        "int8, torch-export, openvino, openvino-int8.",
    ),
]
Batches = Annotated[
    list[int] | None,
    typer.Option("--batch", help="Batch size to time. Repeatable. Default: 1 and 32.", min=1),
]
Lengths = Annotated[
    list[int] | None,
    typer.Option(
        "--length", help="Tokens of a text to time. Repeatable. Default: task.max_length.", min=2
    ),
]
Threads = Annotated[int, typer.Option("--threads", help="Threads. 0: all CPUs.", min=0, max=1024)]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="QUANTITY=NUMBER",
        help="Further limit, such as latency_ms=8. Quantities: latency_ms (the median), p95_ms and "
        "p99_ms at the first batch and length, memory_mb, size_mb, params, encoder_params, flops. "
        "Repeatable. The exit code is 1 if no file of a model meets all limits.",
    ),
]


def export(
    run: RunPlace,
    budget: Budget = None,
    all_budgets: AllBudgets = False,
    out: Out = None,
    formats: Formats = "",
    batch: Batches = None,
    length: Lengths = None,
    threads: Threads = 0,
    limit: Limits = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Write the model of one budget, or of all budgets, to a directory that plain transformers loads.

    Without --batch, --length and --threads, a model for a device is measured under the conditions of its
    budget, and all limits of the budget are judged.

    Example: raycomp export runs/quickstart-1f3a9c02 --budget half --out models/half --formats onnx,int8
    """
    from raycomp.api.run import open_run

    _check_options(budget, all_budgets, out)
    options: dict[str, Any] = {"formats": formats, "threads": threads, "limits": limit or []}
    options |= {"batches": batch or (), "lengths": length or (), "allow_code": allow_code}
    if budget is not None and out is not None:
        proof = open_run(run).deployment(budget).export(out, **options)
        if "verdict" not in proof:
            _print_proof(out, proof, as_json)
            return
        certificates = [proof]
    else:
        if not as_json:
            options["say"] = print
        certificates = open_run(run).export(out, **options)

    if as_json:
        print_json(certificates)
    else:
        print_certificates(certificates)

    # The files are written all the same: the nearest model is better than none.
    if any(certificate["verdict"] == "FAIL" for certificate in certificates):
        raise typer.Exit(FAILED_LIMIT)


def _check_options(budget: str | None, all_budgets: bool, out: Path | None) -> None:
    """Check that the options name one model or all models, and where to write them.

    Raises:
        UserError: They do not.
    """
    if all_budgets == (budget is not None):
        raise UserError("Name one model with --budget NAME, or ask for all of them with --all-budgets.")
    if budget is not None and out is None:
        raise UserError("The model needs a directory. Name a new one with --out.")


def _print_proof(out: Path, proof: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(proof)
    else:
        print(
            f"{out}: {proof['params']:,} parameters. Its logits differ from the run's by at most "
            f"{proof['parity']:.1g}."
        )
