"""What a process may use, from the files of cgroup v1 and v2 and the affinity mask."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raycomp.storage.machine_limits import free_memory, measure_limits, usable_cpus

GIB = 2**30
MEMINFO = f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {48 * GIB // 1024} kB\n"


def make_root(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {"proc/self/cgroup": "0::/slurm/job_7/step_0\n", "proc/meminfo": MEMINFO}
V1 = {"proc/self/cgroup": "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n", "proc/meminfo": MEMINFO}


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"proc/self/cgroup": ""}, 192),
        ({**V2, "sys/fs/cgroup/slurm/job_7/cpu.max": "400000 100000\n"}, 4),
        # The quota of a parent holds too, and a part of a CPU counts as one.
        (
            {
                **V2,
                "sys/fs/cgroup/slurm/job_7/cpu.max": "800000 100000\n",
                "sys/fs/cgroup/slurm/cpu.max": "250000 100000\n",
            },
            3,
        ),
        ({**V2, "sys/fs/cgroup/cpu.max": "max 100000\n"}, 192),
        # In a container, the path is the host's, and the limits are in the root.
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_period_us": "100000\n",
            },
            192,
        ),
        ({**V2, "sys/fs/cgroup/cpu.max": "nonsense"}, 192),
    ],
)
def test_cpus_of_a_quota(
    files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(192)))
    assert usable_cpus(make_root(tmp_path, files)) == cpus


def test_cpus_of_the_affinity_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {17, 18})
    monkeypatch.setattr(os, "cpu_count", lambda: 192)
    assert usable_cpus(tmp_path) == 2


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({"proc/meminfo": MEMINFO}, 48),
        (
            {
                **V2,
                "sys/fs/cgroup/slurm/job_7/memory.max": str(16 * GIB),
                "sys/fs/cgroup/slurm/job_7/memory.current": str(10 * GIB),
                "sys/fs/cgroup/slurm/job_7/memory.stat": f"anon 5\ninactive_file {4 * GIB}\n",
            },
            10,
        ),
        ({**V2, "sys/fs/cgroup/memory.max": "max\n"}, 48),
        (
            {
                **V1,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(8 * GIB),
                "sys/fs/cgroup/memory/memory.usage_in_bytes": str(3 * GIB),
                "sys/fs/cgroup/memory/memory.stat": f"cache 1\ntotal_inactive_file {GIB}\n",
            },
            6,
        ),
        ({**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096)}, 48),
    ],
)
def test_free_memory_of_the_tightest_limit(files: dict[str, str], gib: int, tmp_path: Path) -> None:
    assert free_memory(make_root(tmp_path, files)) == gib * GIB


def test_memory_is_unknown_where_the_system_does_not_say(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


def test_this_machine_has_limits() -> None:
    limits = measure_limits()
    assert 1 <= limits.cpus <= (os.cpu_count() or 1)
    assert limits.memory is not None
    assert limits.memory > 2**20
