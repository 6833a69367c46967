"""Tests that need a GPU. `make gpu` runs them and fails without one; `make test` leaves them out."""

from __future__ import annotations

import pytest
import torch

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _device() -> None:
    if not torch.cuda.is_available():
        pytest.fail("torch sees no CUDA device: these tests are for a machine with a GPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
