"""What many unit tests share: checkpoints and tasks are loaded once, and files are not synchronised."""

from __future__ import annotations

import copy
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.task import TaskSettings


def describe_files(source: str) -> tuple[tuple[str, str], ...]:
    """Return name and digest of a file, or of each file of a directory; empty for another string."""
    path = Path(source)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return tuple(
        (file.relative_to(path).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest())
        for file in files
        if file.is_file()
    )


def remember_checkpoints(load: Callable[..., Any]) -> Callable[..., Any]:
    """Return `load_checkpoint` with a memory. A new classifier is drawn, so torch's state counts, too."""
    import torch

    loaded: dict[Any, tuple[Any, torch.Tensor]] = {}

    def load_once(name: str, *, is_wanted: Any = None, texts: Any = (), **options: Any) -> Any:
        files = describe_files(name)
        # A folder that another process may change, and a choice of tokenizers, are not remembered.
        if is_wanted is not None or not files:
            return load(name, is_wanted=is_wanted, texts=texts, **options)
        state = torch.get_rng_state().numpy().tobytes()
        # Without the name: tests copy a model into folders of their own.
        key = (files, tuple(texts), repr(sorted(options.items())), state)
        if key not in loaded:
            loaded[key] = (load(name, texts=texts, **options), torch.get_rng_state())
        checkpoint, state_after = loaded[key]
        torch.set_rng_state(state_after)
        return copy.deepcopy(checkpoint)

    return load_once


def remember_tasks(load: Callable[..., Any]) -> Callable[..., Any]:
    """Return `load_task` with a memory."""
    loaded: dict[Any, Any] = {}

    def load_once(settings: TaskSettings, *arguments: Any, **options: Any) -> Any:
        sources = [settings.folder, settings.train, settings.validation]
        files = tuple(describe_files(source) for source in sources if source)
        key = (settings.model_dump_json(), files, arguments, repr(sorted(options.items())))
        if key not in loaded:
            loaded[key] = load(settings, *arguments, **options)
        return copy.deepcopy(loaded[key])

    return load_once


@pytest.fixture(scope="session", autouse=True)
def _load_inputs_once() -> Iterator[None]:
    """Contexts import both functions when they call them. Tests that import them have the originals."""
    if "raycomp.methods.context" not in sys.modules:
        yield
        return

    from raycomp.data import tasks
    from raycomp.encoder import pretrained

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "load_checkpoint", remember_checkpoints(pretrained.load_checkpoint))
        patch.setattr(tasks, "load_task", remember_tasks(tasks.load_task))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_sync() -> Iterator[None]:
    """Leave out `fsync`: tests do not survive a power failure. Those about it replace it themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
