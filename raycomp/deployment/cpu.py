"""The CPU of this machine: its model, its instruction sets, its load, and threads that are kept on it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Collection, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
    "sve",
)
"""Instruction sets that a certificate names, as Linux writes them."""

INT8_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""x86 instruction sets that add products of 8-bit numbers in 32 bits.

Without them, ONNX Runtime adds pairs of products in 16 bits, where they can overflow.
"""

VERSIONS = ("torch", "transformers", "onnxruntime", "onnx", "onnxscript", "openvino", "nncf")
"""Packages whose versions measured figures depend on."""

TASKS = Path("/proc/self/task")
"""Directory in which Linux lists the threads of this process."""

TOPOLOGY = Path("/sys/devices/system/cpu")
"""Directory in which Linux lists the hardware threads that share a core."""

_X86 = frozenset({"x86_64", "amd64", "i686", "i386"})


def describe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str | int | list[str]]:
    """Return `model`, `machine`, `instruction_sets` and `cpus` (usable by this process).

    Args:
        cpuinfo: File in which Linux describes the CPU. Elsewhere the instruction sets are not known.
    """
    text = _read(cpuinfo)
    model = re.search(r"^(?:model name|Processor|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    # Every core has its own paragraph; the first one speaks for all.
    cpu_sets = set(flags[1].split()) if flags else set()

    return {
        "model": model[1].strip() if model else platform.processor() or "unknown",
        "machine": platform.machine(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in cpu_sets],
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    }


def describe_machine(threads: int) -> dict[str, Any]:
    """Return the CPU, the threads, and the versions that measured figures depend on."""
    versions = {}
    for package in VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**describe_cpu(), "threads": threads, "versions": versions}


@contextlib.contextmanager
def pinned_to_cpus(threads: int, topology: Path = TOPOLOGY) -> Iterator[list[int] | None]:
    """Keep all threads of this process on as many CPUs as an operation has threads, for one block.

    A thread that moves to another CPU finds its caches empty. Two threads on one core share its units.

    Args:
        threads: Threads of one operation.
        topology: See `TOPOLOGY`.

    Yields:
        The CPUs; None where the system cannot pin threads.
    """
    if not hasattr(os, "sched_setaffinity") or not TASKS.exists():
        yield None
        return

    before = os.sched_getaffinity(0)
    cpus = choose_cpus(before, threads, topology)
    _pin_threads(cpus)
    try:
        yield cpus
    finally:
        _pin_threads(before)


def choose_cpus(usable: Collection[int], count: int, topology: Path = TOPOLOGY) -> list[int]:
    """Return CPUs, on different cores as long as there are enough cores.

    Args:
        usable: CPUs that this process may use.
        count: Number of CPUs to choose; all of them where it is larger.
        topology: See `TOPOLOGY`.
    """
    cores: dict[str, list[int]] = {}
    for cpu in sorted(usable):
        # Where the system does not list the siblings, each CPU counts as a core.
        siblings = _read(topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").strip()
        cores.setdefault(siblings or str(cpu), []).append(cpu)

    first = [cpus[0] for cpus in cores.values()]
    others = [cpu for cpus in cores.values() for cpu in cpus[1:]]
    return sorted([*first, *others][: max(1, count)])


def _pin_threads(cpus: Collection[int]) -> None:
    """Set the CPUs of each thread. The system's call for a process changes only the calling thread."""
    for task in TASKS.iterdir():
        # A thread can end in the meantime.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), cpus)


def describe_load() -> str | None:
    """Return a warning if other programs compute now, or None. Measured times are then too long."""
    if not hasattr(os, "getloadavg"):
        return None
    load = os.getloadavg()[0]
    cpus = int(str(describe_cpu()["cpus"]))
    # This process may have computed before, with all CPUs.
    if load <= cpus + 1:
        return None
    return (
        f"Other programs use this machine: its load is {load:.1f} on {cpus} CPUs. The measured times are "
        "too long. End the other programs, and measure again."
    )


def needs_reduced_range(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether INT8 weights must have 7 bits so that sums do not overflow on this CPU.

    ARM CPUs add in 32 bits. An x86 CPU whose instruction sets are not known is taken to overflow.
    """
    cpu = describe_cpu(cpuinfo)
    if str(cpu["machine"]).lower() not in _X86:
        return False
    sets = cpu["instruction_sets"]
    return not (isinstance(sets, list) and INT8_DOT_PRODUCTS & set(sets))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
