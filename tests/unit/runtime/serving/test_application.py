"""A server that cannot start, or whose requests still wait, tells the user and can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from raycomp.cli.serve import _describe_outcome
from raycomp.errors import UserError
from raycomp.runtime.serving import application
from raycomp.runtime.serving.application import (
    ServerOutcome,
    close_application,
    say_notices,
    start_in_thread,
)

Reply = Callable[[str], list[Any]]


class FakeHandle:
    """A handle whose replicas reply with what a function returns for the called method."""

    def __init__(self, reply: Reply) -> None:
        self.called: list[str] = []
        self._reply = reply

    def broadcast(self, method: str) -> FakeHandle:
        self.called.append(method)
        return self

    def results(self, timeout_s: float) -> list[Any]:
        return self._reply(self.called[-1])


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(application, "FIRST_NOTICE_SECONDS", 0.01)


def test_a_start_returns_its_result_or_raises_its_error() -> None:
    def fail() -> None:
        raise RuntimeError("deploying failed")

    stop = threading.Event()
    assert start_in_thread(lambda: "handle", stop, str, print) == "handle"
    with pytest.raises(RuntimeError, match="deploying failed"):
        start_in_thread(fail, stop, str, print)


def test_a_start_that_waits_says_so_and_can_be_stopped() -> None:
    stop = threading.Event()
    never = threading.Event()
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            stop.set()

    assert start_in_thread(never.wait, stop, lambda: "0 CPUs are free.", say) is None
    assert said[0] == "The server has not started after 0 s. 0 CPUs are free."
    never.set()


def test_a_stop_waits_for_all_answers_however_long_they_take() -> None:
    waiting = list(range(60, -1, -1))
    said: list[str] = []

    def reply(method: str) -> list[tuple[int, int]]:
        # Two replicas; the first one has no request.
        return [(0, 3), (waiting[0], 100 - waiting.pop(0))]

    handle = FakeHandle(reply)
    assert close_application(handle, said.append) == ServerOutcome(103)
    assert set(handle.called) == {"close"}
    assert "accepted requests wait for their answers. Ctrl-C" in said[0]


def test_a_second_ctrl_c_refuses_the_requests_that_wait() -> None:
    def reply(method: str) -> list[tuple[int, int]]:
        if method == "close":
            raise KeyboardInterrupt
        return [(5, 20), (0, 3)]

    handle = FakeHandle(reply)
    assert close_application(handle, print) == ServerOutcome(23, refused=5)
    assert handle.called == ["close", "abandon"]


def test_a_replica_that_does_not_reply_is_one_message() -> None:
    def reply(method: str) -> list[Any]:
        raise TimeoutError("Timed out waiting for broadcast results.")

    handle = FakeHandle(reply)
    with pytest.raises(UserError, match=r"does not reply \(Timed out.*may be without an answer"):
        close_application(handle, print)
    assert not say_notices(handle, print)


def test_the_notices_of_the_replicas_are_shown_once() -> None:
    said: list[str] = []
    assert say_notices(
        FakeHandle(lambda _: [["half runs in fp32."], ["half runs in fp32."], []]), said.append
    )
    assert said == ["half runs in fp32."]


def test_the_last_line_of_the_command_names_requests_without_an_answer() -> None:
    assert _describe_outcome(ServerOutcome(3)) == "Stopped. All 3 accepted requests were answered."
    line = _describe_outcome(ServerOutcome(1200, refused=5))
    assert "1,200 accepted requests were answered, and 5 got status 503." in line
