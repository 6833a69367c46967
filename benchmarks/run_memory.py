"""Peak memory of a whole run, over all its processes, with Ray's object store counted separately.

    python -m benchmarks.run_memory [JOB] [--set a.b=c] [--storage DIR]

Runs `raycomp run` and adds up, every five seconds, the proportional set size (PSS) of the driver and of
all its descendants: a page that several processes share counts once. Pages in /dev/shm, where the
object store is, are printed separately. Takes as long as the job. Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import make_parser
from benchmarks.processes import MemoryUse, measure_memory, read_process_name

POLL_SECONDS = 5.0
NUM_LISTED = 12
KIB_PER_GIB = 2**20


def main() -> None:
    """Run a job, watch its processes, and print the peak."""
    parser = make_parser(__doc__)
    parser.add_argument("job", nargs="?", default="jobs/quickstart.toml")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    args = parser.parse_args()

    command = [sys.executable, "-m", "raycomp.cli", "run", args.job, "--storage", str(args.storage)]
    for override in args.overrides:
        command += ["--set", override]
    print(json.dumps(watch_run(command)))


def watch_run(command: list[str]) -> dict[str, object]:
    """Run a command; return its seconds, its peak of memory, and the largest processes at the peak.

    Raises:
        SystemExit: The command failed; with its exit code.
    """
    started = time.monotonic()
    process = subprocess.Popen(command)
    num_samples = 0
    peak = 0
    peak_second = 0.0
    peak_store = 0
    largest: dict[str, float] = {}

    while process.poll() is None:
        memory = measure_memory(process.pid)
        num_samples += 1
        peak_store = max(peak_store, sum(use.shared for use in memory.values()))
        private = sum(use.private for use in memory.values())
        if private > peak:
            peak = private
            peak_second = time.monotonic() - started
            largest = name_largest(memory)
        time.sleep(POLL_SECONDS)

    if process.returncode:
        sys.exit(process.returncode)
    return {
        "seconds": round(time.monotonic() - started),
        "peak_gib": to_gib(peak),
        "at_second": round(peak_second),
        "object_store_gib": to_gib(peak_store),
        "samples": num_samples,
        "largest_at_the_peak": largest,
    }


def name_largest(memory: dict[int, MemoryUse]) -> dict[str, float]:
    """Return "PID NAME" -> GiB of the largest processes."""
    by_size = sorted(memory, key=lambda pid: -memory[pid].private)
    return {
        f"{pid} {read_process_name(pid)}": to_gib(memory[pid].private) for pid in by_size[:NUM_LISTED]
    }


def to_gib(kib: int) -> float:
    """Return KiB in GiB, rounded to two digits."""
    return round(kib / KIB_PER_GIB, 2)


if __name__ == "__main__":
    main()
