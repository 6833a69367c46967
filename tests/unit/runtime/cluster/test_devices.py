"""A process that was granted a GPU does not compute on the CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raycomp.errors import UserError
from raycomp.runtime.cluster import devices
from raycomp.runtime.cluster.devices import check_granted_gpus


@pytest.mark.parametrize(
    ("granted", "has_cuda", "noun"),
    [([], False, ""), ([0], True, ""), ([0], False, "GPU 0"), ([0, 2], False, "GPUs 0, 2")],
)
def test_a_granted_gpu_that_pytorch_does_not_see_is_refused(
    monkeypatch: pytest.MonkeyPatch, granted: list[int], has_cuda: bool, noun: str
) -> None:
    fake_ray = SimpleNamespace(is_initialized=lambda: True, get_gpu_ids=lambda: granted)
    monkeypatch.setattr(devices, "ray", fake_ray)
    fake_cuda: Any = SimpleNamespace(is_available=lambda: has_cuda)
    monkeypatch.setattr(devices.torch, "cuda", fake_cuda)
    if not noun:
        check_granted_gpus()
        return
    with pytest.raises(UserError, match=f"Ray granted {noun} of node .* sees no CUDA device there"):
        check_granted_gpus()
