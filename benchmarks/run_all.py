"""Measures every claim: one file of benchmarks/claims after another, each in a process of its own.

    python -m benchmarks.run_all [--only NAME ...] [--quick] [--device cuda]

Prints a line for each claim and writes benchmarks/results/<machine>-<date>.json: a list of objects with
name, ratio, target, better, holds, spread and runs. A file that cannot show its claim on this machine
prints the reason, and adds no object. Takes about ten minutes; with --quick some minutes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import HEADER, RUNS, make_parser, write_claims

ROOT = Path(__file__).parents[1]
RESULTS_FOLDER = ROOT / "benchmarks" / "results"
CLAIMS = (
    "steps",
    "epoch",
    "sampler",
    "workers",
    "evaluation",
    "budgets",
    "adabert_step",
    "child",
    "half_model",
    "memory",
)
# Claims about Ray and CPUs, which a GPU does not change.
CPU_CLAIMS = ("sampler", "workers", "budgets")
LIMIT_SECONDS = 400

Rows = list[dict[str, object]]


def main() -> None:
    """Run the files, print a summary, and write the results."""
    args = parse_arguments()
    names = [name for name in args.only if args.device == "cpu" or name not in CPU_CLAIMS]
    skipped = sorted(set(args.only) - set(names))

    print(HEADER)
    rows: Rows = []
    failed: list[str] = []
    seconds: dict[str, float] = {}
    for name in names:
        started = time.monotonic()
        claims = run(name, args.runs, args.quick, args.device)
        seconds[name] = time.monotonic() - started
        if claims is None:
            failed.append(name)
        else:
            rows += claims
        # After each file, so that the results so far stay if the run is stopped.
        if args.out is not None:
            write_claims(args.out, rows)

    for name in skipped:
        print(f"{name}: not measured: it is about Ray and CPUs")
    print_summary(rows, seconds, args.device)

    out = args.out
    is_complete = names == [name for name in CLAIMS if name in names] and not failed
    if out is None and is_complete and not args.quick:
        date = datetime.date.today().isoformat()
        out = RESULTS_FOLDER / f"{machine_name(args.device)}-{date}.json"
    if out is not None:
        write_claims(out, rows)
        print(f"written to {out}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line.

    Raises:
        SystemExit: A GPU was asked for, and torch finds none.
    """
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=CLAIMS, default=list(CLAIMS))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--quick", action="store_true", help="shows that all works; writes no results")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="results file, instead of the one that is named above")
    args = parser.parse_args()

    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.exit("no GPU found: torch sees no CUDA device. `make bench` measures the CPU.")
    return args


def print_summary(rows: Rows, seconds: dict[str, float], device: str) -> None:
    """Print the seconds of each file, and how many claims hold."""
    num_holding = sum(bool(row["holds"]) for row in rows)
    total = sum(seconds.values())
    print(f"seconds: {', '.join(f'{name} {value:.0f}' for name, value in seconds.items())}")
    print(f"{num_holding} of {len(rows)} claims hold; {total:.0f} s on {machine_name(device)}")


def run(name: str, runs: int, quick: bool, device: str) -> Rows | None:
    """Run one file, print its lines, and return its claims; None if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "claims.json"
        command = [sys.executable, "-m", f"benchmarks.claims.{name}"]
        command += ["--runs", str(runs), "--device", device, "--out", str(out)]
        if quick:
            command.append("--quick")
        try:
            process = subprocess.run(
                command,
                cwd=ROOT,
                env=claim_environment(device),
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"{name}: stopped after {LIMIT_SECONDS} s", flush=True)
            return None
        if process.returncode:
            print(f"{name}: failed: {last_line(process.stderr)}", flush=True)
            return None

        for line in process.stdout.splitlines():
            prefix = f"{name}: " if line.startswith("not measured") else ""
            print(f"{prefix}{line}", flush=True)
        return json.loads(out.read_text())


def claim_environment(device: str) -> dict[str, str]:
    """Return the environment variables of a file of claims: on the CPU, those of a run."""
    if device != "cpu":
        return dict(os.environ)
    from raycomp.runtime.cluster.connect import RAY_SETTINGS

    return {**RAY_SETTINGS, **os.environ}


def last_line(text: str) -> str:
    """Return the last line of an output, which names the error."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"


def machine_name(device: str) -> str:
    """Return a short name of the CPU and its number of cores, or of the GPU."""
    if device == "cuda":
        import torch

        return to_slug(torch.cuda.get_device_name())

    cpu_info = Path("/proc/cpuinfo")
    models: list[str] = []
    if cpu_info.exists():
        models = re.findall(r"^model name\s*:\s*(.+)$", cpu_info.read_text(), re.MULTILINE)
    model = models[0] if models else "processor"
    return f"{to_slug(model)}-{count_cores()}-cores"


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def to_slug(model: str) -> str:
    """Return the name of a processor as lower-case words joined by "-", without marks and clock."""
    words = re.sub(r"\([^)]*\)|@.*|\b(CPU|Processor)\b", " ", model)
    return "-".join(re.findall(r"[a-z0-9]+", words.lower())) or "processor"


if __name__ == "__main__":
    main()
