"""Rules for the batch script: form, syntax, privacy, and that it ends only processes that it started."""

from __future__ import annotations

import re
import subprocess  # nosec B404  # `bash -n` reads a file of this project
from collections.abc import Iterator

from tools.cluster_rules.common import Fault, check_ray_settings, check_shell

SBATCH_OPTIONS = ("--nodes", "--time", "--cpus-per-task", "--mem", "--signal")
REQUIRED_PARTS = (
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
    commands = [(number, line) for number, line in enumerate(lines, 1) if re.match(r"\s*[^#\s]", line)]
    yield from _check_head(lines, commands)
    yield from _check_syntax(text)

    code = "\n".join(line for _, line in commands)
    for part in REQUIRED_PARTS:
        if part not in code:
            yield Fault("", f"{part} is missing")
    for number, line in commands:
        if re.search(r"\bray stop\b|\b(pkill|killall)\b", line):
            yield Fault(f"line {number}", "ends processes that this job did not start")
        yield from check_shell(line, f"line {number}")

    exports = " ".join(line for _, line in commands if line.startswith("export "))
    yield from check_ray_settings(dict(re.findall(r"(\w+)=(\S+)", exports)), "export")


def _check_head(lines: list[str], commands: list[tuple[int, str]]) -> Iterator[Fault]:
    """Check the first line, the first command, and the options of Slurm before it."""
    if not lines or lines[0] != "#!/usr/bin/env bash":
        yield Fault("line 1", "must be `#!/usr/bin/env bash`")
    if not commands or commands[0][1] != "set -euo pipefail":
        yield Fault("", "the first command must be `set -euo pipefail`")

    first_command = commands[0][0] if commands else 0
    for number, line in enumerate(lines, 1):
        if line.startswith("#SBATCH") and number > first_command:
            yield Fault(f"line {number}", "Slurm reads no #SBATCH after the first command")
    for option in SBATCH_OPTIONS:
        if not any(line.startswith(f"#SBATCH {option}=") for line in lines):
            yield Fault("", f"#SBATCH {option} is missing")


def _check_syntax(text: str) -> Iterator[Fault]:
    """Let bash parse the script without running it."""
    process = subprocess.run(  # nosec B603 B607  # a constant command; the script is not executed
        ["bash", "-n"], input=text, capture_output=True, text=True, check=False
    )
    if process.returncode:
        yield Fault("", f"bash -n: {process.stderr.strip()}")
