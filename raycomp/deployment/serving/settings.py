"""What to serve, where, and how fast: the options of `raycomp serve`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raycomp.deployment.cpu import describe_cpu
from raycomp.deployment.runtimes import missing_onnx_packages
from raycomp.errors import UserError

RUNTIMES = ("onnxruntime-int8", "onnxruntime", "torch")
"""Runtimes that a server can use."""


@dataclass(frozen=True)
class ServeSettings:
    """Options of a server.

    Attributes:
        budgets: Names of the models; empty for the teacher and all budgets.
        runtime: One of `RUNTIMES`.
        p95_ms: Largest 95th percentile of the answer times; None leaves the choice to the requests.
        host: Address to listen on.
        port: Port to listen on.
        replicas: Processes that each answer with the whole family.
        threads: Threads of each replica.
        allow_code: Whether a metric function that the run names may be imported to score files.
    """

    budgets: tuple[str, ...] = ()
    runtime: str = "onnxruntime-int8"
    p95_ms: float | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    threads: int = 1
    allow_code: bool = False


def read_serve_settings(
    budgets: str,
    runtime: str,
    p95_ms: float | None,
    host: str,
    port: int,
    replicas: int,
    threads: int,
) -> ServeSettings:
    """Return the settings from the words of the command line.

    Args:
        budgets: Names with commas between them; empty for all.
        runtime: As in `ServeSettings`.
        p95_ms: As in `ServeSettings`.
        host: As in `ServeSettings`.
        port: As in `ServeSettings`.
        replicas: As in `ServeSettings`.
        threads: Threads of each replica; 0 shares the CPUs of this machine among the replicas.

    Raises:
        UserError: A value is not valid, or a package of the runtime is missing.
    """
    if runtime not in RUNTIMES:
        raise UserError(f"The runtime {runtime!r} is unknown. Runtimes: {', '.join(RUNTIMES)}.")
    if p95_ms is not None and not 0 < p95_ms < math.inf:
        raise UserError("--p95-ms is not a time above 0. Give milliseconds, such as --p95-ms 50.")
    missing = [] if runtime == "torch" else missing_onnx_packages()
    if missing:
        raise UserError(
            f"The runtime {runtime} needs the package {missing[0]}, which is not installed. Run pip "
            "install 'raycomp[onnx]', or choose --runtime torch."
        )

    return ServeSettings(
        budgets=_split_names(budgets),
        runtime=runtime,
        p95_ms=p95_ms,
        host=host,
        port=port,
        replicas=replicas,
        threads=threads or max(1, int(str(describe_cpu()["cpus"])) // replicas),
    )


def _split_names(budgets: str) -> tuple[str, ...]:
    """Return the names of `--budgets` without repetition."""
    if not budgets:
        return ()
    names: Sequence[str] = [name.strip() for name in budgets.split(",")]
    if not all(names):
        raise UserError(
            "--budgets has an empty name. Write names with commas, such as --budgets teacher,half."
        )
    return tuple(dict.fromkeys(names))
