"""The batch script: its form, its syntax, and that it is private and ends only what it started."""

from __future__ import annotations

import re
import subprocess  # nosec B404  # bash -n reads a file of ours
from collections.abc import Iterator

from tools.cluster_rules.common import Fault, settings, shell

OPTIONS = ("--nodes", "--time", "--cpus-per-task", "--mem", "--signal")
NEEDED = (
    "RAY_AUTH_MODE=token",
    "RAY_AUTH_TOKEN_PATH=",
    "umask 077",
    "--dashboard-host=127.0.0.1",
    "trap cleanup EXIT",
    'RAY_ADDRESS="$address" raycomp run "$job" --storage "$storage"',
)


def check_slurm(text: str) -> Iterator[Fault]:
    """Check the script for `sbatch`."""
    lines = text.splitlines()
    code = [(n, line) for n, line in enumerate(lines, 1) if re.match(r"\s*[^#\s]", line)]
    if not lines or lines[0] != "#!/usr/bin/env bash":
        yield "line 1", "must be `#!/usr/bin/env bash`"
    if not code or code[0][1] != "set -euo pipefail":
        yield "", "the first command must be `set -euo pipefail`"
    begin = code[0][0] if code else 0
    for number, line in enumerate(lines, 1):
        if line.startswith("#SBATCH") and number > begin:
            yield f"line {number}", "Slurm reads no #SBATCH after the first command"
    for option in OPTIONS:
        if not any(line.startswith(f"#SBATCH {option}=") for line in lines):
            yield "", f"#SBATCH {option} is missing"
    parsed = subprocess.run(  # nosec B603 B607  # no word of the file is an argument; nothing is run
        ["bash", "-n"], input=text, capture_output=True, text=True, check=False
    )
    if parsed.returncode:
        yield "", f"bash -n: {parsed.stderr.strip()}"
    whole = "\n".join(line for _, line in code)
    for needed in NEEDED:
        if needed not in whole:
            yield "", f"{needed} is missing"
    for number, line in code:
        if re.search(r"\bray stop\b|\b(pkill|killall)\b", line):
            yield f"line {number}", "ends processes that this job did not start"
        yield from shell(line, f"line {number}")
    exported = " ".join(line for _, line in code if line.startswith("export "))
    yield from settings(dict(re.findall(r"(\w+)=(\S+)", exported)), "export")
