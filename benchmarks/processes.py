"""Memory and CPU time of a process and of all its descendants, read from /proc. Linux only."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class MemoryUse:
    """Proportional set size (PSS) of a process in KiB: a page of n processes counts 1/n in each.

    Attributes:
        private: Memory outside of /dev/shm.
        shared: Memory in /dev/shm, where Ray has its object store.
    """

    private: int
    shared: int


def find_descendants(root: int) -> set[int]:
    """Return the ids of a process and of all its descendants."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat_fields(int(folder.name))
        if fields:
            parents[int(folder.name)] = int(fields[1])

    family = {root}
    while True:
        children = {pid for pid, parent in parents.items() if parent in family} - family
        if not children:
            return family
        family |= children


def measure_memory(root: int) -> dict[int, MemoryUse]:
    """Return the memory of a process and of each of its descendants."""
    memory = {}
    for pid in find_descendants(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            # The process has ended.
            continue
        sizes = {key: int(kib) for key, kib in re.findall(r"^(Pss\w*):\s+(\d+) kB", text, re.MULTILINE)}
        shared = sizes.get("Pss_Shmem", 0)
        memory[pid] = MemoryUse(sizes.get("Pss", 0) - shared, shared)
    return memory


@contextmanager
def watch_peak_memory(interval_seconds: float = 1.0) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the peak PSS in MiB of this process and its descendants so far."""
    samples = [total_memory_mib()]
    is_finished = threading.Event()

    def sample() -> None:
        while not is_finished.wait(interval_seconds):
            samples.append(total_memory_mib())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    yield lambda: max(samples)
    is_finished.set()
    thread.join()


def total_memory_mib() -> float:
    """Return the PSS in MiB of this process and its descendants."""
    return sum(use.private + use.shared for use in measure_memory(os.getpid()).values()) / 1024


def read_cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds of a process without its descendants; None if it has ended."""
    fields = _stat_fields(pid)
    if not fields:
        return None
    user_ticks, system_ticks = int(fields[11]), int(fields[12])
    return (user_ticks + system_ticks) / _TICKS_PER_SECOND


def read_process_name(pid: int) -> str:
    """Return a short name of a process: Ray's name of a worker, else its command. Empty if it ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").split()
    except OSError:
        return ""
    command = " ".join(Path(word).name for word in words[:4])
    return next((word for word in words if word.startswith("ray::")), command)[:60]


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the command; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []
