"""Check the files of cluster/ offline: `python -m tools.check_cluster`, or `make check-cluster`.

One line for each file, one for each fault with the key where it is; exit code 1 when there are faults.
The rules are in tools/cluster_rules/, one module for each kind of file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.cluster_rules.common import ROOT, Fault, secrets
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


def check(name: str, text: str) -> list[Fault]:
    """Return the faults of one file: where in it, and what is wrong.

    Args:
        name: its path from the repository's root, a key of `FILES`.
        text: what it holds.
    """
    try:
        faults = list(FILES[name](text))
    except yaml.YAMLError as error:
        faults = [("", f"no valid YAML: {' '.join(str(error).split())}")]
    return list(dict.fromkeys([*faults, *secrets(text)]))


def main() -> int:
    """Check all files; return the exit code."""
    found = 0
    for name in FILES:
        path = ROOT / name
        faults = check(name, path.read_text()) if path.is_file() else [("", "this file is missing")]
        found += len(faults)
        print(f"{'FAIL' if faults else 'ok  '} {name}")
        for where, what in faults:
            print(f"     {name}: {where + ': ' if where else ''}{what}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
