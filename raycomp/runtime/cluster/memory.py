"""Memory that a process has freed, but not returned to the operating system."""

from __future__ import annotations

import ctypes
import gc


def release_memory() -> None:
    """Return freed pages to the operating system.

    The driver calls this between two stages, because it shares its node with workers that need the
    memory. Only glibc has such a function. With other C libraries nothing happens.
    """
    # Python's cycles first: their pages are free only afterwards.
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
