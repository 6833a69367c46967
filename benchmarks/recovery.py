"""Seconds that a run stands still after a fault: from the kill to the next new step or row.

    python -m benchmarks.recovery [--repeat 1] [-k EXPRESSION]

Runs tests/faults, which kill processes and check the result, and prints a row for each fault. A step is
seen when the progress file is written (every half second), and a row when the ledger writes a file of
rows (every two seconds). Takes about a quarter of an hour for each repetition.
"""

from __future__ import annotations

import json
import os
import subprocess  # nosec B404  # this project's own tests
import sys
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.measure import make_parser

TESTS = ("tests/faults/test_kills.py", "tests/faults/test_hangs.py", "tests/faults/test_storage.py")


def main() -> int:
    """Run the tests and print the figures that they recorded; return the worst exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("-k", default="", help="expression of pytest that selects faults")
    args = parser.parse_args()

    command = [sys.executable, "-m", "pytest", "-m", "", *TESTS, "-k", args.k]
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "recovery.jsonl"
        environment = {**os.environ, "RAYCOMP_RECOVERY": str(record)}
        exit_codes = [
            subprocess.run(command, env=environment, check=False).returncode  # nosec B603  # constant
            for _ in range(args.repeat)
        ]
        print_table(record)
    return max(exit_codes)


def print_table(record: Path) -> None:
    """Print the median, smallest and largest number of seconds of each fault."""
    lines = record.read_text().splitlines() if record.exists() else []
    rows = pd.DataFrame([json.loads(line) for line in lines], columns=["fault", "seconds"])

    print("| fault | seconds to the next step or row | times measured |\n|---|---|---|")
    for fault, seconds in rows.groupby("fault", sort=False)["seconds"]:
        spread = ""
        if len(seconds) > 1:
            spread = f" ({seconds.min():g} to {seconds.max():g})"
        print(f"| {fault} | {seconds.median():g}{spread} | {len(seconds)} |")


if __name__ == "__main__":
    sys.exit(main())
