"""The GPUs that Ray granted to a process, and whether PyTorch can use them."""

from __future__ import annotations

import os

import torch

from raycomp.errors import PermanentError
from raycomp.runtime.cluster.connect import ray


def check_granted_gpus() -> None:
    """Refuse to compute on the CPU in a process that holds a GPU.

    Raises:
        PermanentError: Ray granted GPUs to this process, and PyTorch sees none.
    """
    # A test may run the code of a process without Ray.
    if not ray.is_initialized():
        return
    granted = [str(gpu) for gpu in ray.get_gpu_ids()]
    if not granted or torch.cuda.is_available():
        return

    noun = "GPU" if len(granted) == 1 else "GPUs"
    raise PermanentError(
        f"Ray granted {noun} {', '.join(granted)} of node {os.uname().nodename} to a process, but "
        f"PyTorch {torch.__version__} sees no CUDA device there. Install a PyTorch that fits "
        "the driver of this node, or start Ray on it with --num-gpus=0."
    )
