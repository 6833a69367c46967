"""The evaluators of a search: which are free, which are starting, and which are lost.

An evaluator is in one of four states:

- starting: its process does not answer yet, or it died and Ray starts it again;
- free: it waits for work;
- busy: it scores architectures;
- lost: it can never start again, or it failed several times in a row. It gets no more work.

An evaluator whose process dies loses its batch only. The queue gives the batch to another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from raycomp.errors import EvaluatorLostError
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.stack_traces import describe_cause

MAX_FAILURES = 3
"""Failed passes in a row after which an evaluator is lost, if there are others."""

RESTART_POLL_SECONDS = 0.2
"""Time between two questions whether an evaluator runs again."""

HANG_FACTOR = 20
"""How much longer than the slowest pass so far another one may take."""

FIRST_PASS_FACTOR = 100
"""How many times `train.barrier_seconds` a pass may take before any other one has ended.

There is nothing to compare it with, and the first pass over a large split takes long on a slow CPU.
"""

LOAD_FACTOR = 10
"""How many times `train.barrier_seconds` an evaluator may take to load the super-network."""

Life = tuple[int, int]
"""One process of an evaluator. A process that Ray starts again is another life."""


@dataclass(eq=False)
class PooledEvaluator:
    """One evaluator of the pool.

    Attributes:
        handle: Its actor, or the name of it.
        actor: Its actor, once it has started.
        num_starts: How often its process was started.
        num_failures: Failed passes and loads since the last pass that it finished.
    """

    handle: Any
    actor: Any = None
    num_starts: int = 0
    num_failures: int = 0

    @property
    def life(self) -> Life:
        """What distinguishes this process from others, and from the former ones of this evaluator."""
        return id(self), self.num_starts

    def find_actor(self) -> Any:
        """Return the actor.

        Raises:
            ValueError: Ray does not know an actor of this name any more.
        """
        if isinstance(self.handle, str):
            return ray.get_actor(self.handle)
        return self.handle


class EvaluatorPool:
    """Hands out evaluators, and finds out which of them still run.

    Example:
        >>> pool = EvaluatorPool(actors, on_change=dispatch)  # doctest: +SKIP
        >>> pool.start()  # doctest: +SKIP
        >>> evaluator = pool.take()  # doctest: +SKIP
        >>> rows = await pool.evaluate(evaluator, archs, "selection", "fp32")  # doctest: +SKIP
    """

    def __init__(
        self, handles: list[Any], on_change: Callable[[], None], hang_seconds: float | None = None
    ) -> None:
        """Take evaluators, which `start` then waits for.

        Args:
            handles: Actors, or names of actors.
            on_change: Function that is called when an evaluator is free or lost.
            hang_seconds: Time that a pass may take in any case (`train.barrier_seconds`). A pass that
                takes longer, and much longer than all others, hangs. So does a first pass that takes
                FIRST_PASS_FACTOR times as long, and a load that takes LOAD_FACTOR times as long. If
                absent, the pool waits without limit.
        """
        self._hang_seconds = hang_seconds
        # Seconds per architecture of the slowest pass; 0 before the first one has ended.
        self._slowest_seconds = 0.0
        self._first_pass_start: float | None = None
        self._not_started = [PooledEvaluator(handle) for handle in handles]
        self._starting: set[PooledEvaluator] = set()
        self._free: list[PooledEvaluator] = []
        self._busy: set[PooledEvaluator] = set()
        self._on_change = on_change
        self._tasks: set[asyncio.Task[None]] = set()
        # The moment from which on no evaluator ran.
        self._idle_since = time.monotonic()

        self.losses: list[str] = []
        """Why evaluators were lost, in order."""

    @property
    def num_running(self) -> int:
        """Number of evaluators that are free or busy."""
        return len(self._free) + len(self._busy)

    @property
    def num_left(self) -> int:
        """Number of evaluators that are not lost."""
        return self.num_running + len(self._starting) + len(self._not_started)

    @property
    def seconds_without(self) -> float:
        """For how long no evaluator has run; 0 if one runs."""
        return 0.0 if self.num_running else time.monotonic() - self._idle_since

    @property
    def seconds_of_first_pass(self) -> float:
        """For how long evaluators have computed without the end of any pass; 0 after the first end."""
        if self._first_pass_start is None or self._slowest_seconds or not self._busy:
            return 0.0
        return time.monotonic() - self._first_pass_start

    def start(self) -> None:
        """Use each evaluator from the moment when it has started. A second call changes nothing.

        It may have to wait until another run of a study releases its resources. The pool must not wait
        with it: two runs that wait for each other's evaluators would wait forever.
        """
        while self._not_started:
            self._await_start(self._not_started.pop())

    def take(self, without: Collection[Life] = ()) -> PooledEvaluator | None:
        """Return a free evaluator that is busy from now on; None if all are busy.

        Args:
            without: Lives of evaluators that are not wanted.
        """
        # The one that has been free for the longest time: an evaluator that fails at once must not take
        # all work.
        for position, evaluator in enumerate(self._free):
            if evaluator.life not in without:
                del self._free[position]
                self._busy.add(evaluator)
                return evaluator
        return None

    def has_another(self, lives: Collection[Life]) -> bool:
        """Return whether an evaluator other than some runs or starts."""
        running = [*self._free, *self._busy]
        return bool(self._starting) or any(evaluator.life not in lives for evaluator in running)

    async def evaluate(
        self, evaluator: PooledEvaluator, archs: list[str], split: str, precision: str
    ) -> list[dict[str, Any]]:
        """Let a taken evaluator score architectures; it is free afterwards, or starts again, or is lost.

        Args:
            evaluator: The evaluator, from `take`.
            archs: Architectures as JSON.
            split: Name of the split.
            precision: Precision of the computation.

        Raises:
            EvaluatorLostError: The process of the evaluator has died.
            Exception: What the evaluator raised.
        """
        start = time.monotonic()
        if self._first_pass_start is None:
            self._first_pass_start = start
        try:
            reply = evaluator.actor.evaluate.remote(archs, split, precision)
            rows: list[dict[str, Any]] = await asyncio.wait_for(reply, self._time_limit(len(archs)))
        except Exception as error:
            # An error that the evaluator raised itself is a RayTaskError, with any cause.
            is_raised = isinstance(error, ray.exceptions.RayTaskError)
            if not is_raised and isinstance(error, TimeoutError):
                seconds = time.monotonic() - start
                error = EvaluatorLostError(
                    f"it did not reply for {seconds:.0f} s, which train.barrier_seconds does not allow"
                )
                ray.kill(evaluator.actor, no_restart=False)
            elif is_raised or not isinstance(error, ray.exceptions.RayActorError):
                self._count_failure(evaluator, error)
                raise
            self._release(evaluator)
            self._await_start(evaluator)
            raise EvaluatorLostError(describe_cause(error)) from error

        evaluator.num_failures = 0
        seconds = (time.monotonic() - start) / len(archs)
        self._slowest_seconds = max(self._slowest_seconds, seconds)
        self._give_back(evaluator)
        return rows

    def _time_limit(self, num_archs: int) -> float | None:
        """Return how long a pass may take; None without limit."""
        if self._hang_seconds is None:
            return None
        if not self._slowest_seconds:
            return FIRST_PASS_FACTOR * self._hang_seconds
        return max(self._hang_seconds, HANG_FACTOR * self._slowest_seconds * num_archs)

    def _count_failure(self, evaluator: PooledEvaluator, error: BaseException) -> None:
        evaluator.num_failures += 1
        if evaluator.num_failures >= MAX_FAILURES and self.num_left > 1:
            self._lose(evaluator, error)
        else:
            self._give_back(evaluator)

    def _give_back(self, evaluator: PooledEvaluator) -> None:
        self._release(evaluator)
        self._free.append(evaluator)
        self._on_change()

    def _release(self, evaluator: PooledEvaluator) -> None:
        self._busy.discard(evaluator)
        if not self.num_running:
            self._idle_since = time.monotonic()

    def _lose(self, evaluator: PooledEvaluator, error: BaseException) -> None:
        self._starting.discard(evaluator)
        self._release(evaluator)
        self.losses.append(describe_cause(error))
        # Its GPU or CPUs are free for others. It may be gone already.
        if ray.is_initialized():
            with contextlib.suppress(Exception):
                ray.kill(evaluator.find_actor())
        self._on_change()

    def _await_start(self, evaluator: PooledEvaluator) -> None:
        self._starting.add(evaluator)
        self._start_task(self._add_when_started(evaluator))

    async def _add_when_started(self, evaluator: PooledEvaluator) -> None:
        while True:
            try:
                evaluator.actor = evaluator.find_actor()
                await evaluator.actor.__ray_ready__.remote()
                if await self._load(evaluator):
                    break
            except ray.exceptions.ActorUnavailableError:
                # Ray starts it again as soon as there is room.
                await asyncio.sleep(RESTART_POLL_SECONDS)
            except Exception as error:
                self._lose(evaluator, error)
                return

        evaluator.num_starts += 1
        self._starting.discard(evaluator)
        self._free.append(evaluator)
        # Not at once: evaluators that start at the same time share the requests.
        asyncio.get_running_loop().call_soon(self._on_change)

    async def _load(self, evaluator: PooledEvaluator) -> bool:
        """Let an evaluator whose process runs load the super-network.

        Returns:
            Whether it has. If not, its process has ended, and Ray may start it again.

        Raises:
            EvaluatorLostError: It took too long several times.
            Exception: What the evaluator raised.
        """
        # The evaluators of benchmarks have nothing to load.
        load = getattr(evaluator.actor, "load", None)
        if load is None:
            return True

        start = time.monotonic()
        limit = None if self._hang_seconds is None else LOAD_FACTOR * self._hang_seconds
        try:
            await asyncio.wait_for(load.remote(), limit)
            return True
        except ray.exceptions.RayTaskError:
            # The evaluator raised it itself, with any cause.
            raise
        except ray.exceptions.RayActorError:
            await asyncio.sleep(RESTART_POLL_SECONDS)
        except TimeoutError as error:
            evaluator.num_failures += 1
            if evaluator.num_failures >= MAX_FAILURES:
                raise EvaluatorLostError(
                    f"it did not load the super-network within {time.monotonic() - start:.0f} s. Check "
                    "the storage that its node reads, or raise train.barrier_seconds"
                ) from error
            ray.kill(evaluator.actor, no_restart=False)
        return False

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task and keep a reference to it, because the event loop itself does not."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
