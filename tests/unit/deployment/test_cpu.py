from __future__ import annotations

import os
import platform
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from raycomp.deployment import cpu as cpu_module
from raycomp.deployment.cpu import (
    choose_cpus,
    describe_cpu,
    describe_load,
    needs_reduced_range,
    pinned_to_cpus,
    same_cpu,
)
from raycomp.deployment.format_settings import FormatSettings
from raycomp.deployment.serving.settings import read_serve_settings

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


ARM = "".join(
    f"processor\t: {number}\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
    f"CPU variant\t: 0x{variant}\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
    for number, (variant, part) in enumerate([(3, "0xd0c"), (3, "0xd0c"), (1, "0xd05")])
)
CORES = "implementer 0x41 part 0xd0c variant 0x3, implementer 0x41 part 0xd05 variant 0x1"


@pytest.mark.parametrize(
    ("text", "processor", "model"),
    [
        (ARM, "aarch64", CORES),
        ("Hardware\t: BCM2835\n" + ARM, "", f"BCM2835, {CORES}"),
        ("cpu\t\t: POWER9 (architected)\n", "ppc64le", "POWER9 (architected)"),
        ("", "aarch64", "unknown"),
        ("", "x86_64", "unknown"),
        ("", "", "unknown"),
        ("", "Intel64 Family 6 Model 142", "Intel64 Family 6 Model 142"),
    ],
)
def test_a_cpu_is_named_also_where_linux_gives_numbers(
    text: str, processor: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "processor", lambda: processor)
    (tmp_path / "cpuinfo").write_text(text)
    assert describe_cpu(tmp_path / "cpuinfo")["model"] == model


@pytest.mark.parametrize(("code", "model"), [(0, "Apple M2"), (1, "unknown")])
def test_a_mac_is_asked_for_the_name_of_its_cpu(
    code: int, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run(command: list[str], **_: Any) -> Any:
        asked.append(command)
        return subprocess.CompletedProcess(command, code, "Apple M2\n", "")

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    monkeypatch.setattr(subprocess, "run", run)
    assert describe_cpu(tmp_path / "missing")["model"] == model
    assert asked == [["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]]


def test_cpus_without_a_name_are_not_known_to_be_the_same() -> None:
    cpu = {"model": "Some CPU", "instruction_sets": ["avx2"], "cpus": 2}
    assert same_cpu(cpu, {**cpu, "cpus": 4})
    assert not same_cpu(cpu, {**cpu, "model": "Other CPU"})
    assert not same_cpu(cpu, {**cpu, "instruction_sets": []})
    for model in ("unknown", "aarch64", "arm", ""):
        assert not same_cpu({**cpu, "model": model}, {**cpu, "model": model})
    assert not same_cpu({}, {})


def test_the_default_of_threads_follows_the_limits_of_a_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_module, "usable_cpus", lambda: 6)
    assert describe_cpu()["cpus"] == 6
    assert FormatSettings(("onnx",)).num_threads() == 6
    assert read_serve_settings("", "torch", None, "localhost", 1, 2, 0).threads == 3


def test_a_busy_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # The load is that of the machine: a container with a part of its CPUs is not alone there.
    cpus = 8
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
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
