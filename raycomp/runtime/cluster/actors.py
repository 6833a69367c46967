"""The end of a run's actors: a run that fails must not leave any in a Ray session that continues."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from raycomp.runtime.cluster.connect import ray


@contextmanager
def release_actors(run: str) -> Iterator[None]:
    """Run a block; if it fails, end the actors that it started for a run.

    Where raycomp started Ray itself, the session is over by then and nothing is left to do. In a session
    of the user's, such as that of a notebook, the actors would hold CPUs and memory until it ends.

    Args:
        run: Name of the run directory.
    """
    try:
        yield
    except BaseException as error:
        kill_actors(run)
        _clear_frames(error)
        raise


def kill_actors(run: str) -> None:
    """Kill the named actors of a run: sampler, evaluators, file server.

    Args:
        run: Name of the run directory, which is a part of each name.
    """
    if not ray.is_initialized():
        return

    belongs = re.compile(rf"(?:[a-z]+-)+{re.escape(run)}(?:-[0-9a-f]{{8}})?")
    for name in ray.util.list_named_actors():
        if belongs.fullmatch(name):
            # The actor may end between the two calls.
            with contextlib.suppress(ValueError):
                ray.kill(ray.get_actor(name))


def _clear_frames(error: BaseException) -> None:
    """Drop the local variables of the frames of an exception and of those that caused it.

    A notebook keeps the last exception. Its frames keep handles of actors without a name, and Ray ends
    such an actor only when its last handle is gone.
    """
    cleared: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in cleared:
        cleared.add(id(link))
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
