"""How many inputs are tried, and the line that says so."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

TRIED: Counter[str] = Counter()
SLOWEST = {"seconds": 0.0}
SECONDS = 10.0  # one input; the machine may be busy
MEMORY = 8 * 2**30
_began = time.perf_counter()


def examples(share: float) -> Any:
    """Settings for a share of the inputs: RAYCOMP_FUZZ in all, 300 and always the same ones without."""
    total = int(os.environ.get("RAYCOMP_FUZZ", "0"))
    return settings(
        max_examples=max(10, round(share * (total or 300))),
        derandomize=not total,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def tried(kind: str, call: Callable[[], Any]) -> None:
    """Count an input, and call what reads it: whatever it raises but UserError is a fault."""
    from raycomp.errors import UserError

    began, said = time.perf_counter(), "read"
    try:
        call()
    except UserError as error:
        said = str(error)
    assert 0 < len(said) < 40_000
    took = time.perf_counter() - began
    TRIED[kind] += 1
    SLOWEST["seconds"] = max(SLOWEST["seconds"], took)
    assert took < SECONDS, f"{took:.1f} s for one input"


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """What asks for gigabytes fails here, and not the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if TRIED:
        parts = ", ".join(f"{count:,} {kind}" for kind, count in TRIED.items())
        terminalreporter.write_line(
            f"fuzz: {sum(TRIED.values()):,} inputs ({parts}) in {time.perf_counter() - _began:.0f} s, "
            f"slowest {SLOWEST['seconds']:.2f} s"
        )
