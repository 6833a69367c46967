"""The Serve application of a family: start it without blocking, and close it without a lost request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from raycomp.errors import UserError, first_line

POLL_SECONDS = 0.2

FIRST_NOTICE_SECONDS = 10.0
"""Time until the first line about a start or a stop that takes long. The time doubles after each line."""

REPLY_SECONDS = 60.0
"""Longest time until a replica replies. It computes in another thread, and can reply at any time."""


NOTICE_SECONDS = 2.0
"""Longest time for notices. They are asked for again, and Ctrl-C must not wait for them."""


@dataclass(frozen=True)
class ServerOutcome:
    """Numbers of the requests that a server accepted, by their end.

    Attributes:
        answered: Requests that got an answer.
        refused: Requests that waited when the user interrupted the stop. They got status 503.
    """

    answered: int
    refused: int = 0


def start_in_thread(
    start: Callable[[], Any],
    stop: threading.Event,
    describe_wait: Callable[[], str],
    say: Callable[[str], None],
) -> Any:
    """Return the result of a call that may wait for CPUs for ever, or None if the event comes first.

    Args:
        start: The call. It stays behind in its thread if the event comes first.
        stop: Event that Ctrl-C and SIGTERM set.
        describe_wait: Function that returns one sentence on the resources that the call may lack.
        say: Function that shows one line.
    """
    result: Future[Any] = Future()

    def call() -> None:
        try:
            result.set_result(start())
        # The caller raises it.
        except BaseException as error:
            result.set_exception(error)

    # A daemon: a call that waits for ever must not keep the program alive.
    threading.Thread(target=call, daemon=True).start()
    notice = _Notice(say)
    while not stop.is_set():
        if wait([result], timeout=POLL_SECONDS).done:
            return result.result()
        if notice.is_due():
            notice.say(f"The server has not started after {notice.seconds:.0f} s. {describe_wait()}")
    return None


def close_application(handle: Any, say: Callable[[str], None]) -> ServerOutcome:
    """Refuse new requests, and wait until those that the replicas have accepted are answered.

    A KeyboardInterrupt ends the wait: the requests that still wait get status 503.

    Args:
        handle: Handle of the deployment of `app.FamilyApp`.
        say: Function that shows one line.

    Raises:
        UserError: A replica does not reply.
    """
    notice = _Notice(say)
    try:
        while True:
            replies = _ask(handle, "close")
            num_unanswered = sum(unanswered for unanswered, _ in replies)
            if not num_unanswered:
                return ServerOutcome(sum(answered for _, answered in replies))
            if notice.is_due():
                notice.say(
                    f"{num_unanswered:,} accepted requests wait for their answers. Ctrl-C stops the "
                    "server without these answers."
                )
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        replies = _ask(handle, "abandon")
        return ServerOutcome(
            sum(answered for _, answered in replies), sum(refused for refused, _ in replies)
        )


def say_notices(handle: Any, say: Callable[[str], None]) -> bool:
    """Show the notices of the replicas; see `app.FamilyApp.list_notices`.

    Returns:
        Whether all of them replied. Ray Serve may not know its replicas yet.
    """
    try:
        notices = handle.broadcast("list_notices").results(timeout_s=NOTICE_SECONDS)
    # As in `_ask`. The server works without the notices.
    except Exception:
        return False
    for notice in dict.fromkeys(notice for replica in notices for notice in replica):
        say(notice)
    return True


def _ask(handle: Any, method: str) -> list[tuple[int, int]]:
    """Call a method of all replicas, and return their replies.

    Raises:
        UserError: One does not reply.
    """
    try:
        replies: list[tuple[int, int]] = handle.broadcast(method).results(timeout_s=REPLY_SECONDS)
    # A replica that has died, one that hangs, and none at all are errors of different classes.
    except Exception as error:
        raise UserError(
            f"The server stops, and a replica does not reply ({first_line(error)}). Requests that this "
            "replica had accepted may be without an answer. Send them again."
        ) from None
    return replies


class _Notice:
    """When the next line about a wait is due: after 10 s, and then after twice as long each time."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._began = time.monotonic()
        self._next_seconds = FIRST_NOTICE_SECONDS

    @property
    def seconds(self) -> float:
        """Time since the wait began."""
        return time.monotonic() - self._began

    def is_due(self) -> bool:
        return self.seconds >= self._next_seconds

    def say(self, line: str) -> None:
        self._next_seconds = 2 * self.seconds
        self._say(line)
