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
    while process.poll() is None:
        private, shared = held(process.pid)
        samples += 1
        store = max(store, shared)
        if private > peak:
            peak, at = private, time.monotonic() - began
        time.sleep(EVERY_SECONDS)
    if process.returncode:
        sys.exit(process.returncode)
    found = {
        "seconds": round(time.monotonic() - began),
        "peak_gib": round(peak / GIB, 2),
        "at_second": round(at),
        "object_store_gib": round(store / GIB, 2),
        "samples": samples,
    }
    print(json.dumps(found))


def held(root: int) -> tuple[int, int]:
    """Return the KiB that a process and its descendants hold: of their own, and of the object store."""
    private = shared = 0
    for pid in below(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended
        pss = {name: int(kib) for name, kib in re.findall(r"^(Pss\w*):\s+(\d+) kB", text, re.MULTILINE)}
        shmem = pss.get("Pss_Shmem", 0)
        private += pss.get("Pss", 0) - shmem
        shared += shmem
    return private, shared


if __name__ == "__main__":
    main()
