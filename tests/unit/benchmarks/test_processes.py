"""The memory of processes counts each page once, and shared pages separately."""

from __future__ import annotations

import subprocess
import sys
from multiprocessing import shared_memory

from benchmarks.processes import measure_memory, read_process_name

MIB = 1024
HOLD = """
import sys
data = bytearray(b"x" * (200 << 20))
print("ready", flush=True)
sys.stdin.read()
"""
SHARE = """
import sys
from multiprocessing import resource_tracker, shared_memory
block = shared_memory.SharedMemory(name=sys.argv[1])
resource_tracker.unregister(block._name, "shared_memory")
block.buf[:] = bytes(len(block.buf))
print("ready", flush=True)
sys.stdin.read()
"""


def measured(program: str, *args: str) -> tuple[int, int]:
    child = subprocess.Popen(
        [sys.executable, "-c", program, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        memory = measure_memory(child.pid)
        assert "python" in read_process_name(child.pid)
        return sum(u.private for u in memory.values()), sum(u.shared for u in memory.values())
    finally:
        child.communicate("")


def test_private_and_shared_memory_are_counted_separately() -> None:
    private, shared = measured(HOLD)
    assert 200 * MIB <= private <= 260 * MIB
    assert shared < 10 * MIB
    block = shared_memory.SharedMemory(create=True, size=64 << 20)
    try:
        private, shared = measured(SHARE, block.name)
    finally:
        block.close()
        block.unlink()
    assert shared >= 60 * MIB
    assert private < 60 * MIB
