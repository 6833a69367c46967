"""Memory that a process has freed and still holds."""

from __future__ import annotations

import ctypes
import gc


def release_memory() -> None:
    """Give freed pages back to the system: the driver lives on beside workers that need them.

    glibc alone can be asked; elsewhere nothing happens.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
