"""Memory of a whole run: the peak over time of what all its processes hold, beside Ray's object store.

    python benchmarks/run_memory.py [JOB] [--set a.b=c] [--storage DIR]

Runs `raycomp run` and adds up, every five seconds, the proportional set size (PSS) of the driver and all
that descend from it: a page that several processes share counts once. Pages of the object store lie in
/dev/shm and are printed apart. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.startup import below

EVERY_SECONDS = 5.0
LISTED = 12  # processes that are named
GIB = 2**20  # /proc counts in KiB


def main() -> None:
    """Run, watch, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", nargs="?", default="jobs/quickstart.toml")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    args = parser.parse_args()
    command = [sys.executable, "-m", "raycomp.cli", "run", args.job, "--storage", str(args.storage)]
    for override in args.overrides:
        command += ["--set", override]
    began = time.monotonic()
    process = subprocess.Popen(command)
    peak, store, at, samples = 0, 0, 0.0, 0
    largest: dict[str, float] = {}
    while process.poll() is None:
        each = held(process.pid)
        private, shared = (sum(found[i] for found in each.values()) for i in (0, 1))
        samples += 1
        store = max(store, shared)
        if private > peak:
            peak, at = private, time.monotonic() - began
            largest = {
                f"{pid} {name(pid)}": round(each[pid][0] / GIB, 2)
                for pid in sorted(each, key=lambda p: -each[p][0])[:LISTED]
            }
        time.sleep(EVERY_SECONDS)
    if process.returncode:
        sys.exit(process.returncode)
    found = {
        "seconds": round(time.monotonic() - began),
        "peak_gib": round(peak / GIB, 2),
        "at_second": round(at),
        "object_store_gib": round(store / GIB, 2),
        "samples": samples,
        "largest_at_the_peak": largest,
    }
    print(json.dumps(found))


def held(root: int) -> dict[int, tuple[int, int]]:
    """Return the KiB that a process and each of its descendants hold: (own, in the object store)."""
    found = {}
    for pid in below(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended
        pss = {key: int(kib) for key, kib in re.findall(r"^(Pss\w*):\s+(\d+) kB", text, re.MULTILINE)}
        shmem = pss.get("Pss_Shmem", 0)
        found[pid] = pss.get("Pss", 0) - shmem, shmem
    return found


def name(pid: int) -> str:
    """Return what a process calls itself; Ray's say what they are at."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").split()
    except OSError:
        return "ended"
    return next((w for w in words if w.startswith("ray::")), " ".join(Path(w).name for w in words[:4]))[
        :60
    ]


if __name__ == "__main__":
    main()
