"""The all-reduce of the gradients: one buffer for all steps, whatever the shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raycomp.errors import AllReduceError
from raycomp.runtime.training import all_reduce
from raycomp.runtime.training.all_reduce import FlatAllReduce


def test_slices_are_summed_in_place_and_the_buffer_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers: list[Tensor] = []

    def double(flat: Tensor) -> None:
        """Sum over two ranks with the same numbers."""
        buffers.append(flat)
        flat.mul_(2)

    monkeypatch.setattr(all_reduce.dist, "all_reduce", double)
    reduce = FlatAllReduce()
    matrix = torch.arange(24.0).view(4, 6)
    scalar = torch.tensor(3.0)
    doubles = torch.arange(4.0).double()

    # A slice from the front is not contiguous.
    reduce([matrix[:3, :2], scalar, doubles])
    expected = torch.arange(24.0).view(4, 6)
    expected[:3, :2] *= 2
    assert torch.equal(matrix, expected)
    assert float(scalar) == 6.0
    assert doubles.tolist() == [0.0, 2.0, 4.0, 6.0]
    assert buffers[0].shape == (6 + 1 + 4,)

    # Fewer elements use the same memory.
    reduce([matrix[:1], torch.ones(1)])
    assert torch.equal(matrix[0], expected[0] * 2)
    assert torch.equal(matrix[1:], expected[1:])
    assert buffers[1].data_ptr() == buffers[0].data_ptr()

    reduce([torch.ones(50)])
    assert buffers[2].shape == (50,)


def test_a_single_tensor_is_summed_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers: list[Tensor] = []
    monkeypatch.setattr(all_reduce.dist, "all_reduce", buffers.append)
    tensor = torch.arange(3.0)

    FlatAllReduce()([tensor])
    assert buffers[0] is tensor

    # Other types are summed as float32.
    FlatAllReduce()([tensor.double()])
    assert buffers[1].dtype == torch.float32


def test_a_failed_sum_of_several_tensors_leaves_them_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(flat: Tensor) -> None:
        flat.zero_()
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(all_reduce.dist, "all_reduce", fail)
    tensor = torch.arange(3.0)
    with pytest.raises(AllReduceError, match="closed by peer"):
        FlatAllReduce()([tensor, torch.ones(2)])
    assert tensor.tolist() == [0.0, 1.0, 2.0]
