from __future__ import annotations

import os
import platform
import threading
from pathlib import Path

import pytest

from raycomp.deployment.cpu import (
    choose_cpus,
    describe_cpu,
    describe_load,
    needs_reduced_range,
    pinned_to_cpus,
)

VNNI = "model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_tile\n"
OLD = "model name\t: Old CPU\nflags\t\t: fpu sse2 avx2\n"


@pytest.mark.parametrize(
    ("text", "machine", "reduced"),
    [
        (VNNI, "x86_64", False),
        (VNNI.replace("avx512_vnni", "avx_vnni"), "x86_64", False),
        (OLD, "x86_64", True),
        ("", "AMD64", True),
        ("Features\t: fp asimd asimddp\n", "aarch64", False),
    ],
)
def test_the_range_of_weights_follows_the_instruction_sets(
    text: str, machine: str, reduced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    (tmp_path / "cpuinfo").write_text(text)
    assert needs_reduced_range(tmp_path / "cpuinfo") is reduced


def test_the_description_of_a_cpu(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(VNNI + VNNI)
    cpu = describe_cpu(tmp_path / "cpuinfo")
    assert cpu["model"] == "Some CPU"
    assert cpu["instruction_sets"] == ["avx2", "avx512f", "avx512_vnni"]
    assert int(str(cpu["cpus"])) >= 1
    unknown = describe_cpu(tmp_path / "missing")
    assert unknown["instruction_sets"] == []
    assert unknown["model"]


def test_a_busy_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cpus = int(str(describe_cpu()["cpus"]))
    monkeypatch.setattr(os, "getloadavg", lambda: (cpus + 0.9, 0.0, 0.0))
    assert describe_load() is None
    monkeypatch.setattr(os, "getloadavg", lambda: (cpus + 7.0, 0.0, 0.0))
    assert f"load is {cpus + 7:.1f} on {cpus} CPUs" in str(describe_load())


def test_threads_are_pinned_to_different_cores_as_long_as_there_are_enough(tmp_path: Path) -> None:
    for cpu in range(4):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        # Linux often numbers the second hardware threads after all cores.
        (folder / "thread_siblings_list").write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    assert choose_cpus({0, 1, 2, 3}, 2, tmp_path) == [0, 1]
    assert choose_cpus({0, 2, 3}, 2, tmp_path) == [0, 3]
    assert choose_cpus({0, 2, 3}, 3, tmp_path) == [0, 2, 3]
    assert choose_cpus({5, 7}, 9, tmp_path / "missing") == [5, 7]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot pin threads")
def test_all_threads_of_the_process_are_pinned_for_a_block() -> None:
    before = os.sched_getaffinity(0)
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    assert other.native_id is not None
    try:
        with pinned_to_cpus(1) as cpus:
            assert cpus is not None
            assert len(cpus) == 1
            assert os.sched_getaffinity(0) == os.sched_getaffinity(other.native_id) == set(cpus)
        assert os.sched_getaffinity(0) == os.sched_getaffinity(other.native_id) == before
    finally:
        done.set()
        other.join()
