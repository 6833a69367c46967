"""The architectures that wait for an evaluator: batches, retries, and those that cannot be scored.

An architecture waits until an evaluator gets it in a batch. If the evaluator fails, each architecture of
the batch is given to another evaluator, without company. If that one fails too, the architecture is at
fault, and the callers that wait for it get an error with its name.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError, as_sentence
from raycomp.runtime.cluster.capacity import count_worker_slots
from raycomp.runtime.cluster.stack_traces import add_trace, describe_cause, save_stack_trace
from raycomp.runtime.scoring.evaluator_pool import EvaluatorPool, Life, PooledEvaluator

PassKind = tuple[str, str]
"""Split and precision, which all architectures of one pass over the data share."""

RequestKey = tuple[str, PassKind]
"""Id of an architecture, and the pass that it needs."""

Row = dict[str, Any]
"""A row of the table `evaluations`, as an evaluator returns it."""

AddRows = Callable[[Sequence[Architecture], PassKind, Sequence[Row]], Awaitable[None]]
"""Function of the architectures of a batch, their pass, and one row for each."""

MAX_BATCH = 64
"""Architectures in one pass. More would share hardly more computation, and delay rows and progress."""

MAX_EVALUATORS = 2
"""Evaluators that may fail on one architecture. Then the architecture is at fault."""


@dataclass(frozen=True)
class EvaluatorNeeds:
    """What an evaluator needs to start.

    Attributes:
        cpus: CPUs.
        gpus: GPUs.
        seconds: How long a search waits while no evaluator runs and no node is large enough for one, and
            how long a pass may take in any case.
    """

    cpus: float
    gpus: float
    seconds: float


class EvaluationQueue:
    """Lets a pool of evaluators score architectures.

    Example:
        >>> queue = EvaluationQueue(run_dir, actors, add_rows)  # doctest: +SKIP
        >>> await queue.score(archs, ("selection", "fp32"))  # doctest: +SKIP
    """

    def __init__(
        self,
        run_dir: Path,
        evaluators: list[Any],
        add_rows: AddRows,
        needs: EvaluatorNeeds | None = None,
    ) -> None:
        """Create a queue; the first call of `score` starts to wait for the evaluators.

        Args:
            run_dir: The run directory. It gets the stack traces of evaluators.
            evaluators: Actors, or names of actors.
            add_rows: Function that gets a batch, its pass and its rows before the callers are answered.
            needs: What an evaluator needs. If absent, the search waits for evaluators without limit.
        """
        self._run_dir = run_dir
        self._add_rows = add_rows
        self.needs = needs
        hang_seconds = None if needs is None else needs.seconds
        self.pool = EvaluatorPool(evaluators, self._dispatch, hang_seconds)
        self._watcher: asyncio.Task[None] | None = None

        # A request is pending until its row is there. It waits until an evaluator gets it.
        self._pending: dict[RequestKey, asyncio.Future[None]] = {}
        self._waiting: dict[PassKind, list[Architecture]] = {}

        # The evaluators that failed on an architecture, and the answer if there were too many.
        self._failed_on: dict[RequestKey, set[Life]] = {}
        self._faults: dict[RequestKey, UserError] = {}
        self._last_failure = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def score(self, archs: Sequence[Architecture], kind: PassKind) -> None:
        """Return when the rows of some architectures were added.

        Args:
            archs: Architectures without a row. Those that are being evaluated already are not evaluated
                twice.
            kind: Split and precision.

        Raises:
            UserError: No evaluator is left, or two evaluators failed on one of the architectures.
        """
        self._start_pool()
        keys = [(arch.id, kind) for arch in archs]
        for key in keys:
            if key in self._faults:
                raise self._faults[key]

        # Register all requests before any of them is dispatched: batches then become as large as
        # possible.
        for arch, key in zip(archs, keys, strict=True):
            if key not in self._pending:
                self._pending[key] = asyncio.get_running_loop().create_future()
                self._waiting.setdefault(kind, []).append(arch)

        futures = {key: self._pending[key] for key in keys}
        self._dispatch()
        # Shielded: if one caller is cancelled, the others must still get their answer.
        await asyncio.gather(*(asyncio.shield(future) for future in futures.values()))

    def _start_pool(self) -> None:
        """Use each evaluator from the moment when it has started."""
        self.pool.start()
        if self._watcher is None and self.needs is not None:
            self._watcher = asyncio.create_task(self._watch_pool(self.needs))

    async def _watch_pool(self, needs: EvaluatorNeeds) -> None:
        """Answer all callers if no evaluator runs, and no node of the cluster could have one.

        A cluster of fixed size that has lost a node does not get it back.
        """
        while True:
            await asyncio.sleep(1)
            is_late = self.pool.seconds_without > needs.seconds
            if self._pending and is_late and not count_worker_slots(needs.cpus, needs.gpus):
                self._fail_all(
                    f"No evaluator runs, and for {needs.seconds:g} s no node of the cluster had the "
                    f"{needs.cpus:g} CPUs and {needs.gpus:g} GPUs that one needs. Add a node."
                )

    def _dispatch(self) -> None:
        """Give each free evaluator a batch of the waiting architectures."""
        if self._pending and not self.pool.num_left:
            causes = self.pool.losses or ["none was started"]
            self._fail_all(
                f"No evaluator is left: {as_sentence(causes[-1])} Correct this, then run the same "
                "command again: the scores so far are kept."
            )

        for kind in list(self._waiting):
            left = self._dispatch_retries(self._waiting.pop(kind), kind)
            # An evaluator computes the common first layers of a batch once. In this order neighbours
            # share the most layers.
            left.sort(key=_layer_sizes)
            batch_size = min(MAX_BATCH, math.ceil(len(left) / max(1, self.pool.num_left)))

            while left and (evaluator := self.pool.take()):
                batch = left[:batch_size]
                left = left[batch_size:]
                self._start_task(self._evaluate(evaluator, batch, kind))
            if left:
                self._waiting.setdefault(kind, []).extend(left)

    def _dispatch_retries(self, archs: list[Architecture], kind: PassKind) -> list[Architecture]:
        """Give each architecture that failed before to another evaluator, without company.

        Returns:
            The architectures that did not fail before.
        """
        others = []
        for arch in archs:
            lives = self._failed_on.get((arch.id, kind))
            if lives is None:
                others.append(arch)
            elif evaluator := self.pool.take(without=lives):
                self._start_task(self._evaluate(evaluator, [arch], kind))
            elif self.pool.has_another(lives):
                self._waiting.setdefault(kind, []).append(arch)
            else:
                self._fail_arch(arch, kind)
        return others

    async def _evaluate(
        self, evaluator: PooledEvaluator, archs: list[Architecture], kind: PassKind
    ) -> None:
        """Let an evaluator score a batch, and answer all callers that wait for it."""
        texts = [arch.to_json() for arch in archs]
        # A process that Ray starts again is another one.
        life = evaluator.life
        try:
            rows = await self.pool.evaluate(evaluator, texts, *kind)
        except Exception as error:
            trace = save_stack_trace(self._run_dir, "evaluator", error.__cause__ or error)
            self._last_failure = add_trace(describe_cause(error), trace)
            self._retry(archs, kind, life)
            return

        keys = [(arch.id, kind) for arch in archs]
        try:
            # Before the answer: if the storage is full, the callers get the error.
            await self._add_rows(archs, kind, rows)
        except Exception as error:
            for key in keys:
                self._fail(key, error)
            return
        for key in keys:
            future = self._pending.pop(key, None)
            if future is not None:
                future.set_result(None)

    def _retry(self, archs: list[Architecture], kind: PassKind, life: Life) -> None:
        """Give the architectures of a batch that failed to another evaluator, or give up on them."""
        for arch in archs:
            key = (arch.id, kind)
            if key not in self._pending:
                continue

            lives = self._failed_on.setdefault(key, set())
            # A batch does not show which architecture is at fault. The only evaluator tries each one.
            if len(archs) == 1 or self.pool.has_another({life}):
                lives.add(life)
            if len(lives) >= MAX_EVALUATORS:
                self._fail_arch(arch, kind)
            else:
                self._waiting.setdefault(kind, []).append(arch)
        self._dispatch()

    def _fail_arch(self, arch: Architecture, kind: PassKind) -> None:
        """Give up on an architecture, also for callers that ask later."""
        key = (arch.id, kind)
        num_failed = len(self._failed_on[key])
        noun = "evaluator" if num_failed == 1 else "evaluators"
        fault = UserError(
            f"Architecture {arch.id} of depth {arch.depth} cannot be scored, because {num_failed} {noun} "
            f"failed on it: {as_sentence(self._last_failure)} If memory was short, lower "
            "search.evaluators or search.max_tokens. Then run the same command again: the scores so far "
            "are kept."
        )
        self._faults[key] = fault
        self._fail(key, fault)

    def _fail_all(self, reason: str) -> None:
        self._waiting.clear()
        for key in list(self._pending):
            self._fail(key, UserError(reason))

    def _fail(self, key: RequestKey, error: Exception) -> None:
        """Answer the callers that wait for an architecture with an error."""
        future = self._pending.pop(key, None)
        if future is not None:
            future.set_exception(error)
            # Read it once, or asyncio warns if no caller is left that waits for this future.
            future.exception()

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task and keep a reference to it, because the event loop itself does not."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _layer_sizes(arch: Architecture) -> list[tuple[int, int]]:
    return list(zip(arch.heads, arch.ffn, strict=True))
