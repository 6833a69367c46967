"""The sum over the workers: one piece of memory, whatever shapes a step used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raycomp.errors import AllReduceError
from raycomp.runtime.training import all_reduce as reduction


def test_slices_are_summed_in_place_and_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def all_reduce(flat: Tensor) -> None:  # two workers with the same numbers
        seen.append(flat)
        flat.mul_(2)

    monkeypatch.setattr(reduction.dist, "all_reduce", all_reduce)
    reduce = reduction.FlatAllReduce()
    whole, other = torch.arange(24.0).view(4, 6), torch.tensor(3.0)
    half = torch.arange(4.0).double()
    reduce([whole[:3, :2], other, half])  # front slices are not contiguous
    want = torch.arange(24.0).view(4, 6)
    want[:3, :2] *= 2
    assert torch.equal(whole, want)
    assert float(other) == 6.0
    assert half.tolist() == [0.0, 2.0, 4.0, 6.0]
    assert seen[0].shape == (6 + 1 + 4,)
    reduce([whole[:1], torch.ones(1)])  # fewer: the same memory
    assert torch.equal(whole[0], want[0] * 2)
    assert torch.equal(whole[1:], want[1:])
    assert seen[1].data_ptr() == seen[0].data_ptr()
    reduce([torch.ones(50)])
    assert seen[2].shape == (50,)


def test_one_tensor_is_summed_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(reduction.dist, "all_reduce", seen.append)
    given = torch.arange(3.0)
    reduction.FlatAllReduce()([given])
    assert seen[0] is given
    reduction.FlatAllReduce()([given.double()])  # sums are of fp32
    assert seen[1].dtype == torch.float32


def test_a_sum_of_several_that_fails_leaves_all_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(flat: Tensor) -> None:
        flat.zero_()
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(reduction.dist, "all_reduce", all_reduce)
    given = torch.arange(3.0)
    with pytest.raises(AllReduceError, match="closed by peer"):
        reduction.FlatAllReduce()([given, torch.ones(2)])
    assert given.tolist() == [0.0, 1.0, 2.0]
