"""How long a run stands still after a fault: from the kill to the next new step or row.

    python benchmarks/recovery.py [--repeat 1] [-k EXPRESSION]

Runs tests/faults, which kill for real and check the result; prints a row for each fault. A step is seen
when the progress file is written (every half second), a row when the ledger writes a file of them (every
two seconds).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess  # nosec B404  # this project's own tests
import sys
import tempfile
from pathlib import Path

import pandas as pd

TESTS = ("tests/faults/test_kills.py", "tests/faults/test_hangs.py", "tests/faults/test_storage.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("-k", default="", help="as pytest's: a part of the faults")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "recovery.jsonl"
        given = {**os.environ, "RAYCOMP_RECOVERY": str(record)}
        codes = [
            subprocess.run(  # nosec B603  # a constant command
                [sys.executable, "-m", "pytest", "-m", "", *TESTS, "-k", args.k], env=given, check=False
            ).returncode
            for _ in range(args.repeat)
        ]
        show(record)
    return max(codes)


def show(record: Path) -> None:
    """Print the median, least and most seconds of each fault."""
    lines = record.read_text().splitlines() if record.exists() else []
    rows = pd.DataFrame([json.loads(line) for line in lines], columns=["fault", "seconds"])
    print("| fault | seconds to the next step or row | times measured |\n|---|---|---|")
    for fault, seconds in rows.groupby("fault", sort=False)["seconds"]:
        spread = f" ({seconds.min():g} to {seconds.max():g})" if len(seconds) > 1 else ""
        print(f"| {fault} | {seconds.median():g}{spread} | {len(seconds)} |")


if __name__ == "__main__":
    sys.exit(main())
