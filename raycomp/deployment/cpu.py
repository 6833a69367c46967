"""The CPU of this machine: its model, its instruction sets, its load, and threads that are kept on it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess  # nosec B404 - the arguments are this module's own
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raycomp.storage.machine_limits import usable_cpus

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

SYSCTL = "/usr/sbin/sysctl"
"""Program of macOS that prints the name of the CPU."""

UNKNOWN = "unknown"
"""Model of a CPU that the system does not name."""

_X86 = frozenset({"x86_64", "amd64", "i686", "i386"})
_ARCHITECTURES = _X86 | {"", UNKNOWN, "arm", "arm64", "aarch64", "armv7l", "ppc64le", "riscv64", "s390x"}
"""What some systems give as the model: many CPUs have this name."""

_ARM_FIELD = re.compile(r"^CPU (implementer|variant|part)\s*:\s*(\S+)\s*$", re.MULTILINE)


def describe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str | int | list[str]]:
    """Return `model`, `machine`, `instruction_sets` and `cpus` (usable by this process).

    Args:
        cpuinfo: File in which Linux describes the CPU. Elsewhere the instruction sets are not known.
    """
    text = _read(cpuinfo)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    # Every core has its own paragraph; the first one speaks for all.
    cpu_sets = set(flags[1].split()) if flags else set()

    return {
        "model": _find_model(text),
        "machine": platform.machine(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in cpu_sets],
        "cpus": usable_cpus(),
    }


def same_cpu(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Return whether two machines, as `describe_cpu` describes them, have the same kind of CPU.

    CPUs that the system does not name are not known to be the same.
    """
    if str(first.get("model", UNKNOWN)).lower() in _ARCHITECTURES:
        return False
    return all(first.get(key) == second.get(key) for key in ("model", "instruction_sets"))


def is_same_device(machine: Mapping[str, Any], device: Mapping[str, Any], threads: int) -> bool:
    """Return whether times of a machine are those of a device that was profiled.

    A virtual machine with the same CPU can have fewer of them: threads then wait for each other.

    Args:
        machine: Machine that measures, as `describe_cpu` describes it.
        device: Machine of the profile, in the same form.
        threads: Threads of one operation.
    """
    return same_cpu(machine, device) and int(machine.get("cpus", threads)) >= threads


def _find_model(cpuinfo: str) -> str:
    """Return the name of the CPU, from the text of /proc/cpuinfo and from the system."""
    names = re.search(r"^(?:model name|Processor|Hardware|cpu|uarch)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    cores = _list_arm_cores(cpuinfo)
    if names or cores:
        return ", ".join([*([names[1].strip()] if names else []), *cores])
    if platform.system() == "Darwin":
        return _ask_macos() or UNKNOWN
    model = platform.processor()
    return UNKNOWN if model.lower() in _ARCHITECTURES else model


def _list_arm_cores(cpuinfo: str) -> list[str]:
    """Return each kind of core of an ARM CPU once, in numbers: Linux does not translate them to names."""
    cores = []
    for paragraph in cpuinfo.split("\n\n"):
        fields = dict(_ARM_FIELD.findall(paragraph))
        if "part" in fields:
            names = ("implementer", "part", "variant")
            cores.append(" ".join(f"{name} {fields[name]}" for name in names if name in fields))
    return list(dict.fromkeys(cores))


def _ask_macos() -> str:
    """Return the name of the CPU of a Mac; empty if the system does not say."""
    command = [SYSCTL, "-n", "machdep.cpu.brand_string"]
    try:
        done = subprocess.run(  # nosec B603 - no shell, and the arguments are constants
            command, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


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
    # The load is that of the whole machine, also where this process may use a part of its CPUs.
    cpus = os.cpu_count() or 1
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
