"""The all-reduce of a training step: the gradients of all ranks are summed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from raycomp.errors import AllReduceError, first_line


class FlatAllReduce:
    """Sums a list of tensors over all ranks with one all-reduce.

    One contiguous float32 tensor is summed in place. Otherwise the tensors are copied to a flat buffer,
    the buffer is summed, and the sums are copied back. The buffer is kept from step to step, because
    touching new memory pages takes as long as the sum itself.

    Every rank must call it with tensors of the same shapes, in the same order.
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.float32)

    def __call__(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks.

        Args:
            tensors: Tensors of any shapes, all on one device.

        Raises:
            AllReduceError: A rank did not take part in time, or its connection broke. Several tensors
                then keep their values. A single tensor may have neither its own values nor the sum.
        """
        is_flat = len(tensors) == 1 and tensors[0].is_contiguous() and tensors[0].dtype == torch.float32
        if is_flat:
            _sum_over_ranks(tensors[0])
            return

        sizes = [tensor.numel() for tensor in tensors]
        buffer = self._buffer_of(sum(sizes), tensors[0].device)

        # Views in the order of memory: a matrix that was sliced by columns is stored by columns.
        views = [t if t.is_contiguous() or t.ndim != 2 else t.t() for t in tensors]
        parts = [p.view(v.shape) for p, v in zip(buffer.split(sizes), views, strict=True)]

        torch._foreach_copy_(parts, views)
        _sum_over_ranks(buffer)
        torch._foreach_copy_(views, parts)

    def _buffer_of(self, size: int, device: torch.device) -> Tensor:
        """Return the first `size` elements of the buffer: (size,) float32."""
        if self._buffer.numel() < size or self._buffer.device != device:
            # Free the old buffer before the larger one is allocated: both may not fit into memory.
            self._buffer = torch.empty(0)
            self._buffer = torch.empty(size, dtype=torch.float32, device=device)
        return self._buffer[:size]


def _sum_over_ranks(flat: Tensor) -> None:
    try:
        dist.all_reduce(flat)
    except RuntimeError as error:
        # Gloo raises a plain RuntimeError, without a class of its own.
        raise AllReduceError(first_line(error)) from error
