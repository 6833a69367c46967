"""Callbacks: objects that follow a run from the process that started it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycomp.api.run import Run

LOGGER = logging.getLogger("raycomp")


class Callback:
    """Base class of callbacks; each method does nothing unless a subclass overrides it.

    The methods run in the process that called `raycomp.compress`, never in a worker. A callback may be
    defined in a notebook, and it may hold open files or connections. `on_progress` runs in a
    background thread. A callback that raises an exception is switched off with a warning in the log:
    it cannot fail the run, and it is not a part of the run's identity.

    Example:
        >>> import raycomp
        >>> class PrintSteps(raycomp.Callback):
        ...     def on_progress(self, part, done, total, figures):
        ...         print(f"{part}: {done} of {total}")
        >>> PrintSteps().on_progress("teacher", 10, 40, {"loss": 0.6})
        teacher: 10 of 40
    """

    def on_message(self, text: str) -> None:
        """Receive a notice, such as "Resuming reviews-1f3a9c02: teacher done".

        Args:
            text: One line.
        """

    def on_progress(self, part: str, done: int, total: int, figures: dict[str, Any]) -> None:
        """Receive the progress of one part of the run, about twice a second.

        Args:
            part: Name of the part, such as "teacher", "super-network", "search" or "deploy".
            done: Number of steps, architectures or budgets that are finished.
            total: Number of them in all.
            figures: Latest figures of the part, such as `loss`, `entropy` or `best`.
        """

    def on_end(self, run: Run) -> None:
        """Receive the finished run. A run that failed or was interrupted does not get here.

        Args:
            run: The run, with its tables complete.
        """


class CallbackList:
    """Calls several callbacks, and switches off those that raise an exception."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = list(callbacks)

    def call(self, method: str, *arguments: Any) -> None:
        """Call one method of every callback.

        Args:
            method: Name of a method of `Callback`.
            arguments: Arguments of the method.
        """
        for callback in list(self._callbacks):
            try:
                getattr(callback, method)(*arguments)
            except Exception:
                # A typo in a notebook must not cost a run of hours.
                LOGGER.warning(
                    "The callback %s failed in %s and is switched off; the run continues.",
                    type(callback).__name__,
                    method,
                    exc_info=True,
                )
                # It may have failed in another thread at the same moment.
                with contextlib.suppress(ValueError):
                    self._callbacks.remove(callback)
