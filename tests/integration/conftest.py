"""One small Ray on this machine for all integration tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import ray

from raycomp.config.job import Job
from raycomp.config.loader import parse_job
from raycomp.runtime.cluster.connect import start_local_cluster
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.run import run_job


@pytest.fixture(scope="package", autouse=True)
def _ray() -> Iterator[None]:
    start_local_cluster(
        num_cpus=2,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=256 * 2**20,
    )
    yield
    ray.shutdown()


def run_silently(job: Job | dict[str, Any], storage: Path) -> Path:
    """Run a job without a progress bar; return its run directory."""
    if not isinstance(job, Job):
        job = parse_job(job)
    return run_job(job, storage, Progress(enabled=False))
