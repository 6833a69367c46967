"""The queue of a server: waiting requests become batches, and a policy chooses the network of each batch.

`serve.batch` of Ray Serve 2.60 closes a batch when its wait time is over, also while the last batch is
computed. Without a wait time, requests that wait become batches of one text; with a wait time, an idle
server waits. This queue closes a batch when the computation before it ends, and the policy sees how many
texts wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from raycomp.deployment.serving.network import MAX_BATCH, ServedNetwork
from raycomp.deployment.serving.policy import NetworkPolicy
from raycomp.deployment.serving.requests import TextRequest
from raycomp.errors import RequestError

MAX_WAITING_TEXTS = 4096
"""Texts that may wait. A request beyond is refused: its answer would come too late for its client."""

REST_SECONDS = 0.5
"""Time between two questions whether a policy moves back, while no request comes."""

UNAVAILABLE = 503
CLOSING = "The server is shutting down."
FAILED = "The server failed and starts again; its log has the cause."


@dataclass(frozen=True)
class _Waiting:
    """A request that waits for its batch."""

    request: TextRequest
    answer: asyncio.Future[dict[str, Any]]
    arrived_s: float

    @property
    def num_texts(self) -> int:
        return len(self.request.texts)


class FamilyService:
    """Answers requests with the networks of a family. All methods belong to one event loop."""

    def __init__(
        self,
        networks: Sequence[ServedNetwork],
        policy: NetworkPolicy,
        ladder: Sequence[str],
        names: Mapping[str, str],
    ) -> None:
        """Start without a request.

        Args:
            networks: The networks.
            policy: Choice among the networks of the ladder.
            ladder: Names of the networks of the policy, in its order.
            names: From each name that a request may give to the name of its network.
        """
        self._networks = {network.name: network for network in networks}
        self._policy = policy
        self._ladder = tuple(ladder)
        self._names = dict(names)
        self._waiting: list[_Waiting] = []
        # Counted here: a sum over thousands of requests for each new one would take most of the time.
        self._num_waiting = 0
        self.num_unanswered = 0
        self._has_work = asyncio.Event()
        self._is_closed = False
        self.num_answered = 0
        # One thread: two batches at a time would share the same CPUs.
        self._executor = ThreadPoolExecutor(1)
        self._worker = asyncio.get_running_loop().create_task(self._work())
        self._worker.add_done_callback(self._refuse_after_failure)

    @property
    def has_failed(self) -> bool:
        """Whether the queue has stopped because of an error: no request would be answered."""
        return self._worker.done() and not self._worker.cancelled()

    def state(self) -> dict[str, Any]:
        """Return what GET /health shows."""
        return {
            "status": self._status(),
            "network": self._ladder[self._policy.level],
            "waiting_texts": self._num_waiting,
            "answered_requests": self.num_answered,
            "policy_moves": self._policy.num_moves,
        }

    def _status(self) -> str:
        if self.has_failed:
            return "failed"
        return "closing" if self._is_closed else "ok"

    async def answer(self, request: TextRequest) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            RequestError: Too many texts wait, the queue has failed, or the server is shutting down.
        """
        if self.has_failed:
            raise RequestError(UNAVAILABLE, FAILED)
        if self._is_closed:
            raise RequestError(UNAVAILABLE, CLOSING)
        if self._num_waiting + len(request.texts) > MAX_WAITING_TEXTS:
            raise RequestError(
                UNAVAILABLE, f"More than {MAX_WAITING_TEXTS:,} texts wait; send the request again later."
            )

        waiting = _Waiting(request, asyncio.get_running_loop().create_future(), time.monotonic())
        self._policy.record_arrival(waiting.arrived_s, waiting.num_texts)
        self._waiting.append(waiting)
        self._num_waiting += waiting.num_texts
        self.num_unanswered += 1
        self._has_work.set()
        try:
            return await waiting.answer
        finally:
            self.num_unanswered -= 1

    def close(self) -> None:
        """Refuse new requests."""
        self._is_closed = True

    async def drain(self) -> int:
        """Refuse new requests, answer those that wait, and return the number of all answers."""
        # Closed first: otherwise a steady load would never let the queue become empty.
        self.close()
        while self.num_unanswered:
            await asyncio.sleep(0.01)
        self._worker.cancel()
        # The thread may still compute for a client that has gone away.
        self._executor.shutdown(wait=False)
        return self.num_answered

    def abandon(self) -> int:
        """Refuse new requests and those that wait, and return the number of the latter.

        Requests whose batch is being computed get their answers.
        """
        self.close()
        return self._refuse_waiting(CLOSING)

    def _refuse_after_failure(self, worker: asyncio.Task[None]) -> None:
        """Refuse the requests that wait where the worker has failed: nothing would answer them."""
        error = None if worker.cancelled() else worker.exception()
        if error is not None:
            logging.getLogger(__name__).error("The queue has failed", exc_info=error)
            self._refuse_waiting(FAILED)

    def _refuse_waiting(self, reason: str) -> int:
        """Give all requests that wait a status 503, and return their number."""
        refused = [waiting for waiting in self._waiting if not waiting.answer.done()]
        for waiting in refused:
            waiting.answer.set_exception(RequestError(UNAVAILABLE, reason))
        self._set_waiting([])
        return len(refused)

    def _set_waiting(self, waiting: list[_Waiting]) -> None:
        self._waiting = waiting
        self._num_waiting = sum(entry.num_texts for entry in waiting)

    async def _work(self) -> None:
        """Compute one batch after another for as long as the server runs."""
        while True:
            # A client that has gone away needs no answer.
            self._set_waiting([waiting for waiting in self._waiting if not waiting.answer.done()])
            if not self._waiting:
                await self._wait_for_request()
                continue
            name, batch = self._take_batch(time.monotonic())
            await self._answer_batch(self._networks[name], batch)

    async def _wait_for_request(self) -> None:
        """Wait for a request. In the meantime the policy moves back, one network after another."""
        self._has_work.clear()
        while self._policy.level > 0 and not self._has_work.is_set():
            try:
                await asyncio.wait_for(self._has_work.wait(), REST_SECONDS)
            except TimeoutError:
                self._policy.rest(time.monotonic())
        await self._has_work.wait()

    def _take_batch(self, now_s: float) -> tuple[str, list[_Waiting]]:
        """Remove the oldest request, and later ones that the same network answers, from the queue."""
        level = self._choose_level(now_s)
        networks = [self._choose_network(waiting, level, now_s) for waiting in self._waiting]
        name = networks[0]
        batch: list[_Waiting] = []
        rest: list[_Waiting] = []
        num_texts = 0

        for waiting, network in zip(self._waiting, networks, strict=True):
            # A request stays whole, and one with more texts than a batch has a batch of its own.
            fits = not batch or num_texts + waiting.num_texts <= MAX_BATCH
            if network == name and fits:
                batch.append(waiting)
                num_texts += waiting.num_texts
            else:
                rest.append(waiting)

        self._set_waiting(rest)
        return name, batch

    def _choose_level(self, now_s: float) -> int:
        oldest_ms = (now_s - self._waiting[0].arrived_s) * 1000
        return self._policy.choose(now_s, self._num_waiting, oldest_ms)

    def _choose_network(self, waiting: _Waiting, level: int, now_s: float) -> str:
        request = waiting.request
        if request.budget is not None:
            return self._names[request.budget]
        if request.latency_ms is not None:
            waited_ms = (now_s - waiting.arrived_s) * 1000
            level = self._policy.choose_for(request.latency_ms, self._num_waiting, waited_ms)
        return self._ladder[level]

    async def _answer_batch(self, network: ServedNetwork, batch: list[_Waiting]) -> None:
        # A task has pairs in all of its requests, or in none.
        texts = [text for waiting in batch for text in waiting.request.texts]
        pairs = None
        if batch[0].request.pairs is not None:
            pairs = [text for waiting in batch for text in waiting.request.pairs or ()]

        began_s = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            batched = await loop.run_in_executor(self._executor, network.predict, texts, pairs)
            # Without the tokenizer: a smaller network does not make it faster.
            if network.name in self._ladder:
                level = self._ladder.index(network.name)
                self._policy.record_batch(level, len(texts), batched.forward_ms)
        # One batch that fails must not stop the batches after it. The clients get the error.
        except Exception as error:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return

        ended_s = time.monotonic()
        compute_ms = (ended_s - began_s) * 1000
        results = batched.results
        for waiting in batch:
            own, results = results[: waiting.num_texts], results[waiting.num_texts :]
            self._send(waiting, own, network.name, ended_s, compute_ms)

    def _send(
        self,
        waiting: _Waiting,
        results: list[dict[str, Any]],
        network: str,
        ended_s: float,
        compute_ms: float,
    ) -> None:
        """Give a request its answer."""
        if waiting.answer.done():
            return
        answer_ms = (ended_s - waiting.arrived_s) * 1000
        # A request with a network of its own choice says nothing about the network of the policy.
        if waiting.request.budget is None and waiting.request.latency_ms is None:
            self._policy.record_answer(waiting.arrived_s, answer_ms)
        waiting.answer.set_result(
            {
                "results": results,
                "network": network,
                "time_ms": round(answer_ms, 3),
                "compute_ms": round(compute_ms, 3),
            }
        )
        self.num_answered += 1
