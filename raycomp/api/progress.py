"""Progress of a run that Python code started: bars on a terminal, lines in a notebook, else the log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from raycomp.api.callbacks import CallbackList
from raycomp.runtime.cluster.progress import Progress, Update

LOGGER = logging.getLogger("raycomp")


class SessionProgress(Progress):
    """Sends the progress of a run to the screen, to the `raycomp` logger, and to callbacks.

    Args:
        show: Whether to print. None prints on a terminal and in a notebook only.
        callbacks: Callbacks of the run.
    """

    def __init__(self, show: bool | None, callbacks: CallbackList) -> None:
        # Bars go to standard error, as those of the command line.
        on_terminal = sys.stderr.isatty()
        if show is None:
            show = on_terminal or in_notebook()

        if on_terminal:
            super().__init__(enabled=show)
        else:
            # A notebook and a file get plain lines: control characters would be printed there.
            super().__init__(enabled=False, lines=show, console=plain_console())

        self._is_shown = show
        self._callbacks = callbacks

    def say(self, text: str) -> None:
        """Log one line, and print it where progress is shown.

        Where the application shows the log itself, the line is not printed a second time.
        """
        if self._is_shown and not LOGGER.isEnabledFor(logging.INFO):
            super().say(text)
        LOGGER.info(text)
        self._callbacks.call("on_message", text)

    @contextmanager
    def bar(self, name: str) -> Iterator[Update]:
        """Show a bar while the block runs, and tell the callbacks of every update."""
        with super().bar(name) as update:

            def update_all(done: int, total: int, figures: dict[str, Any]) -> None:
                update(done, total, figures)
                self._callbacks.call("on_progress", name, done, total, figures)

            yield update_all


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    # A notebook has imported IPython long before; nobody else needs to.
    ipython = sys.modules.get("IPython")
    if ipython is None:
        return False
    shell = ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def plain_console() -> Console:
    """Return a console that writes plain text to standard output."""
    return Console(
        file=sys.stdout,
        force_terminal=False,
        force_jupyter=False,
        color_system=None,
        highlight=False,
    )
