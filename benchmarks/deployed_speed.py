"""Deployed models of a run against the teacher in ONNX Runtime INT8, which a user would run otherwise.

    python -m benchmarks.deployed_speed RUN_DIR --files DIR [--batches 1,32] [--length 64] [--threads 2]
        [--rounds 30] [--half b]

Exports the teacher and every deployed model to ONNX, in fp32 and in INT8, into folders of DIR. A folder
that is complete is used again. Each file is then timed in turns with the INT8 teacher. A round is one
turn of both, and a turn is the median of a few passes. Prints a row per file:

    size_mb   size of the file
    validation, kept   the metric on the validation rows of a half, in this runtime, and its share of the
        INT8 teacher's
    p50_ms    median time of a forward pass
    speedup   time of the INT8 teacher over that of the file: the median of the rounds' ratios, and their
        central half
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.healing import kept_rows, predict
from benchmarks.measure import PairedFigures, Work, make_parser, measure_pair
from raycomp.config.loader import parse_stored
from raycomp.deployment.cpu import describe_cpu, describe_load, pinned_to_cpus
from raycomp.deployment.format_settings import INT8_FILE, ONNX_FILE, FormatSettings
from raycomp.deployment.runtimes import open_session, session_feeds, session_forward
from raycomp.methods.base import Forward
from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline.export_formats import CERTIFICATE_FILE, TEACHER
from raycomp.runtime.pipeline.reexport import export_budget, list_models
from raycomp.runtime.pipeline.user_units import standardised
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout

PASSES = 5
"""Passes of a turn whose median counts. One pass before them is not measured."""

RUNTIMES = {"fp32": ONNX_FILE, "INT8": INT8_FILE}


@dataclass(frozen=True)
class DeployedFile:
    """One ONNX file of a model.

    Attributes:
        model: "teacher", or METHOD-BUDGET.
        precision: A key of RUNTIMES.
        path: The file.
    """

    model: str
    precision: str
    path: Path


def main() -> None:
    """Export what is missing, score and time each file, and print the table."""
    parser = make_parser(__doc__)
    add_arguments(parser)
    args = parser.parse_args()
    if load := describe_load():
        print(f"Warning: {load}")

    files = export_files(args.run_dir, args.files, args.threads)
    print_figures(files, args)


def print_figures(files: Sequence[DeployedFile], args: argparse.Namespace) -> None:
    """Score and time files beside the teacher's in INT8, and print the table.

    Args:
        files: The files, with the teacher's.
        args: The options of `add_arguments`.

    Raises:
        SystemExit: INT8 of the teacher was refused.
    """
    reference = next((f for f in files if (f.model, f.precision) == (TEACHER, "INT8")), None)
    if reference is None:
        raise SystemExit("INT8 of the teacher was refused. Its certificate.json has the reasons.")

    with pinned_to_cpus(args.threads):
        scores = score_files(args.run_dir, files, args.half, args.threads)
        columns = {batch: time_files(files, reference, batch, args) for batch in args.batches}

    print(
        f"{describe_cpu()['model']}, {args.threads} threads, length {args.length}, {args.rounds} rounds"
    )
    for line in format_table(files, scores, scores[reference], columns):
        print(line)


def export_files(run_dir: Path, folder: Path, threads: int) -> list[DeployedFile]:
    """Return the ONNX files of the teacher and of each deployed model; write those that are missing."""
    settings = FormatSettings(("onnx", "int8"), batches=(1,), threads=threads)
    files = []
    for model in list_models(run_dir):
        out = folder / model
        if not (out / CERTIFICATE_FILE).exists():
            export_budget(run_dir, model, out, settings)

        for note in read_json(out / CERTIFICATE_FILE)["notes"]:
            print(f"{model}: {note}", flush=True)
        # A file is missing where the model cannot be exported, or where INT8 was refused.
        paths = {precision: out / file for precision, file in RUNTIMES.items()}
        files += [DeployedFile(model, name, path) for name, path in paths.items() if path.exists()]
    return files


def score_files(
    run_dir: Path, files: Sequence[DeployedFile], half: str | None, threads: int
) -> dict[DeployedFile, float]:
    """Return the metric of each file on validation rows, computed in its runtime."""
    job = parse_stored(read_json(RunLayout(run_dir).job))
    context = RunContext(job, run_dir, method=job.run.methods[0])
    rows = kept_rows(context, half)

    scores = {}
    for file in files:
        config = read_json(file.path.parents[1] / "config.json")
        # A model with a cut vocabulary has token ids of its own.
        own = context if config["vocab_size"] == context.config.vocab_size else context.cut
        forward = standardised(own, batch_forward(open_session(file.path, threads)))
        scores[file] = predict(own, forward, rows).value(context.primary)
    return scores


def batch_forward(session: Any) -> Forward:
    """Return the forward function of a session, from a batch to logits (batch, classes)."""
    forward = session_forward(session)
    return lambda batch: forward(batch.input_ids, batch.attention_mask, batch.token_type_ids)


def time_files(
    files: Sequence[DeployedFile], reference: DeployedFile, batch: int, args: argparse.Namespace
) -> dict[DeployedFile, PairedFigures]:
    """Return the milliseconds of the reference and of each file, in turns."""
    # Time does not depend on the tokens, and these are in every vocabulary.
    ids = torch.randint(0, 100, (batch, args.length), generator=torch.Generator().manual_seed(0))

    def make_turn(file: DeployedFile) -> Work:
        session = open_session(file.path, args.threads)
        feeds = session_feeds(session, ids, torch.ones_like(ids), None)
        return lambda: time_turn(lambda: session.run(["logits"], feeds))

    reference_turn = make_turn(reference)
    return {file: measure_pair(reference_turn, make_turn(file), args.rounds) for file in files}


def time_turn(run: Callable[[], object]) -> float:
    """Return the median milliseconds of a few passes. Threads of the other runtime may wait actively."""
    run()
    durations = []
    for _ in range(PASSES):
        began = time.perf_counter()
        run()
        durations.append((time.perf_counter() - began) * 1000)
    return statistics.median(durations)


def format_table(
    files: Sequence[DeployedFile],
    scores: dict[DeployedFile, float],
    reference_score: float,
    columns: dict[int, dict[DeployedFile, PairedFigures]],
) -> list[str]:
    """Return the lines of a Markdown table with a row per file."""
    names = ["model", "file", "size_mb", "validation", "kept"]
    for batch in columns:
        names += [f"p50_ms, batch {batch}", f"speedup, batch {batch}"]
    lines = [f"| {' | '.join(names)} |", "|---|---|" + "--:|" * (len(names) - 2)]

    for file in files:
        size = file.path.stat().st_size / 1e6
        kept = scores[file] / reference_score
        cells = [file.model, file.precision, f"{size:.1f}", f"{scores[file]:.4f}", f"{kept:.1%}"]
        for figures in columns.values():
            paired = figures[file]
            low, high = paired.spread
            cells += [f"{np.median(paired.b):.2f}", f"{paired.ratio:.2f} ({low:.2f} to {high:.2f})"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("run_dir", type=Path, help="run directory")
    parser.add_argument("--files", type=Path, required=True, help="directory of the exported models")
    parser.add_argument("--batches", type=_numbers, default=[1, 32], help="batch sizes: 1,32")
    parser.add_argument("--length", type=int, default=64, help="tokens of a text")
    parser.add_argument("--threads", type=int, default=2, help="threads of one operation")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each file")
    parser.add_argument("--half", choices=("a", "b"), help="half of the validation rows; all without it")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
