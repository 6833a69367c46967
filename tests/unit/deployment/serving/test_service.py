"""The queue batches what waits, keeps the order of answers, survives failures, and drains."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from raycomp.deployment.serving import policy as policy_module
from raycomp.deployment.serving import service as service_module
from raycomp.deployment.serving.network import MAX_BATCH, Predictions
from raycomp.deployment.serving.policy import NetworkPolicy, Speed
from raycomp.deployment.serving.requests import TextRequest
from raycomp.deployment.serving.service import FamilyService
from raycomp.errors import RequestError

FORWARD_MS = 5.0


class EchoNetwork:
    """Answers each text with itself. The first batch waits until the test allows it."""

    def __init__(self, name: str, gate: threading.Event) -> None:
        self.name = name
        self.batches: list[list[str]] = []
        self._gate = gate

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Predictions:
        self._gate.wait(10)
        self.batches.append(list(texts))
        if "broken" in texts:
            raise ValueError("the network is broken")
        return Predictions([{"echo": text} for text in texts], FORWARD_MS)


class Server:
    """A service of two networks whose computation waits for `gate`."""

    def __init__(self, target_ms: float | None = None) -> None:
        self.gate = threading.Event()
        self.networks: Any = [EchoNetwork(name, self.gate) for name in ("large", "small")]
        policy = NetworkPolicy([Speed(1.0, 10.0), Speed(0.1, 0.1)], target_ms, MAX_BATCH)
        names = {"large": "large", "small": "small", "yoco-small": "small"}
        self.service = FamilyService(self.networks, policy, ["large", "small"], names)

    def send(self, *texts: str, **options: Any) -> asyncio.Task[dict[str, Any]]:
        return asyncio.ensure_future(self.service.answer(TextRequest(texts, **options)))


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


async def settle() -> None:
    """Let the tasks of the event loop run until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_requests_that_wait_share_a_batch_and_each_gets_its_own_results() -> None:
    async def check() -> None:
        server = Server()
        first = server.send("first")
        await settle()
        later = [server.send(f"a{i}", f"b{i}") for i in range(20)]
        await settle()
        server.gate.set()
        answers = await asyncio.gather(first, *later)

        assert [[result["echo"] for result in answer["results"]] for answer in answers] == [
            ["first"],
            *[[f"a{i}", f"b{i}"] for i in range(20)],
        ]
        # 40 texts in batches of at most 32, whole requests, in the order of arrival.
        assert [len(batch) for batch in server.networks[0].batches] == [1, 32, 8]
        assert answers[1]["network"] == "large"
        assert answers[1]["time_ms"] >= answers[1]["compute_ms"] > 0
        await server.service.drain()

    run(check)


def test_a_request_may_name_its_network() -> None:
    async def check() -> None:
        server = Server()
        server.gate.set()
        answers = await asyncio.gather(
            server.send("a"), server.send("b", budget="small"), server.send("c", budget="yoco-small")
        )
        assert [answer["network"] for answer in answers] == ["large", "small", "small"]
        fast = await server.send("d", latency_ms=5.0)
        assert fast["network"] == "small"
        await server.service.drain()

    run(check)


def test_waiting_texts_move_the_policy_to_the_small_network() -> None:
    async def check() -> None:
        server = Server(target_ms=60.0)
        first = server.send("first")
        await settle()
        later = [server.send(f"text {i}") for i in range(64)]
        await settle()
        server.gate.set()
        answers = await asyncio.gather(first, *later)

        assert answers[0]["network"] == "large"
        assert {answer["network"] for answer in answers[1:]} == {"small"}
        assert server.service.state()["network"] == "small"
        await server.service.drain()

    run(check)


def test_an_idle_server_moves_back_and_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "REST_SECONDS", 0.01)
    monkeypatch.setattr(policy_module, "HOLD_SECONDS", 0.02)
    monkeypatch.setattr(policy_module, "RATE_SECONDS", 0.02)

    async def check() -> None:
        server = Server(target_ms=60.0)
        server.gate.set()
        await asyncio.gather(*(server.send(f"text {i}") for i in range(64)))
        assert server.service.state()["network"] == "small"
        # No request comes.
        await asyncio.sleep(0.15)
        assert server.service.state()["network"] == "large"
        # The server still answers.
        assert (await server.send("later"))["network"] == "large"
        await server.service.drain()

    run(check)


def test_a_batch_that_fails_does_not_stop_the_batches_after_it() -> None:
    async def check() -> None:
        server = Server()
        server.gate.set()
        with pytest.raises(ValueError, match="the network is broken"):
            await server.send("broken")
        answer = await server.send("whole")
        assert answer["results"] == [{"echo": "whole"}]
        await server.service.drain()

    run(check)


def test_the_policy_learns_from_the_time_of_the_forward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time in the tokenizer says nothing about the networks."""
    seen: list[tuple[int, int, float]] = []
    monkeypatch.setattr(NetworkPolicy, "record_batch", lambda _, *batch: seen.append(batch))

    async def check() -> None:
        server = Server()
        first = server.send("a", "b")
        await asyncio.sleep(0.05)
        server.gate.set()
        answer = await first
        assert answer["compute_ms"] > 40.0
        await server.service.drain()

    run(check)
    assert seen == [(0, 2, FORWARD_MS)]


def test_a_queue_that_fails_refuses_requests_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests would otherwise wait for ever, and Ray Serve would see a healthy replica."""

    def fail(*_: Any) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(NetworkPolicy, "choose", fail)

    async def check() -> None:
        server = Server()
        assert server.service.state()["status"] == "ok"
        with pytest.raises(RequestError, match="starts again"):
            await server.send("first")
        assert server.service.has_failed
        assert server.service.state()["status"] == "failed"
        with pytest.raises(RequestError, match="starts again") as caught:
            await server.send("later")
        assert caught.value.status == 503
        # A stop does not wait for answers that nothing computes.
        await server.service.drain()

    run(check)


def test_a_client_that_goes_away_is_not_computed() -> None:
    async def check() -> None:
        server = Server()
        first = server.send("first")
        await settle()
        gone = server.send("gone")
        await settle()
        gone.cancel()
        await settle()
        server.gate.set()
        await first
        await server.service.drain()
        assert server.networks[0].batches == [["first"]]

    run(check)


def test_drain_answers_all_that_was_accepted_and_refuses_the_rest() -> None:
    async def check() -> None:
        server = Server()
        accepted = [server.send(f"text {i}") for i in range(100)]
        await settle()
        drained = asyncio.ensure_future(server.service.drain())
        await settle()
        with pytest.raises(RequestError, match="shutting down") as caught:
            await server.send("too late")
        assert caught.value.status == 503
        assert not drained.done()
        server.gate.set()

        answers = await asyncio.gather(*accepted)
        assert [answer["results"][0]["echo"] for answer in answers] == [f"text {i}" for i in range(100)]
        assert await drained == 100

    run(check)


def test_an_interrupted_stop_refuses_the_requests_that_wait() -> None:
    async def check() -> None:
        server = Server()
        computed = server.send("first")
        await settle()
        waiting = [server.send(f"text {i}") for i in range(5)]
        await settle()

        assert server.service.abandon() == 5
        for request in waiting:
            with pytest.raises(RequestError, match="shutting down"):
                await request
        with pytest.raises(RequestError, match="shutting down"):
            await server.send("too late")
        # The batch that is being computed is not lost.
        server.gate.set()
        assert (await computed)["results"] == [{"echo": "first"}]
        assert await server.service.drain() == 1
        assert server.service.state()["waiting_texts"] == 0

    run(check)


def test_the_number_of_waiting_texts_follows_the_queue() -> None:
    async def check() -> None:
        server = Server()
        first = server.send("first")
        await settle()
        gone = server.send("gone")
        later = [server.send(f"a{i}", f"b{i}") for i in range(20)]
        await settle()
        assert server.service.state()["waiting_texts"] == 41
        gone.cancel()
        await settle()
        server.gate.set()
        await asyncio.gather(first, *later)
        assert server.service.state()["waiting_texts"] == 0
        await server.service.drain()

    run(check)


def test_too_many_waiting_texts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "MAX_WAITING_TEXTS", 3)

    async def check() -> None:
        server = Server()
        first = server.send("first")
        await settle()
        waiting = server.send("a", "b")
        await settle()
        with pytest.raises(RequestError, match="send the request again later") as caught:
            await server.send("c", "d")
        assert caught.value.status == 503
        server.gate.set()
        await asyncio.gather(first, waiting)
        await server.service.drain()

    run(check)
