"""Checks the files of cluster/ offline: `python -m tools.check_cluster`, or `make check-cluster`.

Prints a line for each file, and a line for each fault with the key where it is. The exit code is 1 if
there are faults. The rules are in tools/cluster_rules/, one module for each kind of file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.cluster_rules.common import ROOT, Fault, find_secrets
from tools.cluster_rules.docker import check_dockerfile, check_dockerignore
from tools.cluster_rules.kuberay import check_kuberay
from tools.cluster_rules.launcher import check_launcher
from tools.cluster_rules.slurm import check_slurm

FILES: dict[str, Callable[[str], Iterator[Fault]]] = {
    "cluster/kuberay/raycluster.yaml": check_kuberay,
    "cluster/kuberay/rayjob.yaml": check_kuberay,
    "cluster/kuberay/storage.yaml": check_kuberay,
    "cluster/aws.yaml": check_launcher,
    "cluster/gcp.yaml": check_launcher,
    "cluster/slurm.sh": check_slurm,
    "cluster/Dockerfile": check_dockerfile,
    ".dockerignore": check_dockerignore,
}


def check_file(name: str, text: str) -> list[Fault]:
    """Return the faults of one file.

    Args:
        name: Path from the repository's root, a key of `FILES`.
        text: Content of the file.
    """
    try:
        faults = list(FILES[name](text))
    except yaml.YAMLError as error:
        faults = [Fault("", f"invalid YAML: {' '.join(str(error).split())}")]

    # Two rules may find the same fault.
    return list(dict.fromkeys([*faults, *find_secrets(text)]))


def main() -> int:
    """Check all files, and print; return the exit code."""
    num_faults = 0
    for name in FILES:
        path = ROOT / name
        if path.is_file():
            faults = check_file(name, path.read_text())
        else:
            faults = [Fault("", "this file is missing")]

        num_faults += len(faults)
        print(f"{'FAIL' if faults else 'ok  '} {name}")
        for fault in faults:
            place = f"{fault.place}: " if fault.place else ""
            print(f"     {name}: {place}{fault.message}")
    return 1 if num_faults else 0


if __name__ == "__main__":
    sys.exit(main())
