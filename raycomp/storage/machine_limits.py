"""How many CPUs and how much memory this process may use: affinity mask, cgroup limits, free memory.

Ray counts what a machine has. A container, a Slurm job or `taskset` may allow less of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

UNLIMITED = 1 << 60
"""Limits of memory from this size on mean "none": cgroup v1 writes a number near 2**63."""


class MachineLimits(NamedTuple):
    """What this process may use of its machine.

    Attributes:
        cpus: CPUs, at least 1.
        memory: Bytes that are free now within all limits; None if the system does not say.
    """

    cpus: int
    memory: int | None


def measure_limits() -> MachineLimits:
    """Return what this process may use now."""
    return MachineLimits(usable_cpus(), free_memory())


def usable_cpus(root: Path = Path("/")) -> int:
    """Return the CPUs of the affinity mask, or fewer if a cgroup has a smaller quota; at least 1.

    Args:
        root: Root of the file system; tests give another one.
    """
    cpus = os.cpu_count() or 1
    # Not every system has affinity masks.
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    quotas = [math.ceil(quota) for quota in _cpu_quotas(root)]
    return max(1, min([cpus, *quotas]))


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that are free within the machine and all cgroups of this process.

    Args:
        root: Root of the file system; tests give another one.
    """
    sizes = list(_free_bytes_of_cgroups(root))
    available = _meminfo(root).get("MemAvailable")
    if available is not None:
        sizes.append(available)
    return max(0, min(sizes)) if sizes else None


def _cpu_quotas(root: Path) -> Iterator[float]:
    for folder in _cgroup_folders(root, "cpu"):
        limit = _read_words(folder / "cpu.max")
        if len(limit) == 2 and limit[0] != "max":
            yield int(limit[0]) / int(limit[1])

        quota = _read_number(folder / "cpu.cfs_quota_us")
        period = _read_number(folder / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            yield quota / period


def _free_bytes_of_cgroups(root: Path) -> Iterator[int]:
    """Yield limit minus use for each cgroup with a limit. Cached files count as free."""
    for folder in _cgroup_folders(root, "memory"):
        for limit_name, use_name, cache_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _read_number(folder / limit_name)
            if limit is None or limit >= UNLIMITED:
                continue

            # The system drops cached files before it runs out of memory.
            used = _read_number(folder / use_name) or 0
            yield limit - max(0, used - _read_statistic(folder / "memory.stat", cache_name))


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroups that can limit a resource, up to the root cgroup.

    A container often sees the path that its cgroup has on the host. Folders that do not exist are
    harmless: the container's own limits are in the root cgroup.

    Args:
        root: Root of the file system.
        controller: "cpu" or "memory".
    """
    mount = root / "sys" / "fs" / "cgroup"
    for line in _read_text(root / "proc" / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # Version 2 has one hierarchy, number 0, without names of controllers.
        if number == "0" and not controllers:
            bases = [mount]
        elif controller in controllers.split(","):
            bases = [mount / controllers, mount / controller]
        else:
            continue

        # The limits of all parents hold too.
        parts = Path(path.lstrip("/")).parts
        for base in bases:
            for length in range(len(parts), -1, -1):
                yield base.joinpath(*parts[:length])


def _meminfo(root: Path) -> dict[str, int]:
    """Return the lines of /proc/meminfo in bytes."""
    sizes = {}
    for line in _read_text(root / "proc" / "meminfo").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            sizes[name] = int(words[0]) * 1024
    return sizes


def _read_statistic(path: Path, name: str) -> int:
    """Return a line's number in a file of NAME NUMBER lines; 0 if it is missing."""
    for line in _read_text(path).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return 0


def _read_number(path: Path) -> int | None:
    try:
        return int(_read_text(path))
    except ValueError:
        return None


def _read_words(path: Path) -> list[str]:
    return _read_text(path).split()


def _read_text(path: Path) -> str:
    """Return the text of a file of the system; empty if this machine does not have it."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
