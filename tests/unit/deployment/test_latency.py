from __future__ import annotations

import time

from raycomp.deployment.latency import measure_latencies_ms


def test_medians_of_networks_that_take_turns() -> None:
    turns: list[int] = []

    def network(which: int, seconds: float):  # type: ignore[no-untyped-def]
        def forward(ids: object, mask: object) -> None:
            turns.append(which)
            time.sleep(seconds)

        return forward

    found = measure_latencies_ms([network(0, 0.002), network(1, 0.02)], 30, length=8, runs=5, warmup=1)
    assert turns == [0, 1] * 6
    assert 2 <= found[0] < found[1]
    assert found[1] >= 20
