"""Every claim, one file after another, each in a process of its own.

    python -m benchmarks.run_all [--only NAME ...] [--quick] [--device cuda]

Prints a line a claim and writes benchmarks/results/<machine>-<date>.json: a list of objects with
name, ratio, target, better, holds, spread and runs. A file that cannot show its claim on this
machine says so, and leaves no row.
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

from benchmarks.measure import HEADER, RUNS

ROOT = Path(__file__).parents[1]
CLAIMS = (
    "steps", "epoch", "sampler", "workers", "evaluation", "budgets", "adabert_step", "child",
    "half_model", "memory",
)  # fmt: skip
WITH_RAY = ("sampler", "workers", "budgets")
LIMIT_SECONDS = 400


def main() -> None:
    """Run the files and gather what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=CLAIMS, default=list(CLAIMS))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--quick", action="store_true", help="shows that all works; writes no results")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="results file, in place of the one that is named above")
    args = parser.parse_args()
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.exit("no GPU found: torch sees no CUDA device; `make bench` measures this processor")
    names = [n for n in args.only if args.device == "cpu" or n not in WITH_RAY]
    print(HEADER)
    rows, failed, taken = [], [], {}
    for name in names:
        began = time.monotonic()
        found = run(name, args.runs, args.quick, args.device)
        taken[name] = time.monotonic() - began
        rows += found or []
        failed += [name] if found is None else []
        if args.out is not None:  # after each: what ends the run early leaves what was found
            write(args.out, rows)
    for name in sorted(set(args.only) - set(names)):
        print(f"{name}: not measured: it is about Ray and processors")
    held = sum(row["holds"] for row in rows)
    print(f"seconds: {', '.join(f'{name} {s:.0f}' for name, s in taken.items())}")
    print(
        f"{held} of {len(rows)} claims hold; {sum(taken.values()):.0f} s on {machine_name(args.device)}"
    )
    out = args.out
    if out is None and not args.quick and names == [n for n in CLAIMS if n in names] and not failed:
        date = datetime.date.today().isoformat()
        out = ROOT / "benchmarks" / "results" / f"{machine_name(args.device)}-{date}.json"
    if out is not None:
        write(out, rows)
        print(f"written to {out}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def write(path: Path, rows: list[dict[str, object]]) -> None:
    """Write claims as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")


def environment(device: str) -> dict[str, str]:
    """Return what every process of a run has in its environment; on a GPU the core runs without Ray."""
    if device != "cpu":
        return dict(os.environ)
    from raycomp.runtime.cluster.connect import RAY_SETTINGS

    return {**RAY_SETTINGS, **os.environ}


def run(name: str, runs: int, quick: bool, device: str) -> list[dict[str, object]] | None:
    """Run one file, show its lines, and return its claims; None when it failed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "claims.json"
        command = [
            sys.executable, "-m", f"benchmarks.claims.{name}", "--runs", str(runs), "--device", device,
            "--out", str(out), *(["--quick"] if quick else []),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
                env=environment(device),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            print(f"{name}: stopped after {LIMIT_SECONDS} s", flush=True)
            return None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"{name}: failed: {last}", flush=True)
            return None
        for line in done.stdout.splitlines():
            print(f"{name}: {line}" if line.startswith("not measured") else line, flush=True)
        return json.loads(out.read_text())


def machine_name(device: str) -> str:
    """Return a short word for the processor and its cores, or for the GPU."""
    if device == "cuda":
        import torch

        return to_slug(torch.cuda.get_device_name())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = "processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        model = models[0] if models else model
    return f"{to_slug(model)}-{cores}-cores"


def to_slug(model: str) -> str:
    """Return a model's name as lower-case words joined by "-": no marks, no clock."""
    words = re.sub(r"\([^)]*\)|@.*|\b(CPU|Processor)\b", " ", model)
    return "-".join(re.findall(r"[a-z0-9]+", words.lower())) or "processor"


if __name__ == "__main__":
    main()
