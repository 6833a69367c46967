"""Lengths of training that a run chose when it began (`run.equal_compute`, `run.equal_epochs`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycomp.config.job import Job
from raycomp.config.loader import parse_job
from raycomp.config.overrides import put


def apply_lengths(job: Job, lengths: Mapping[str, Any]) -> Job:
    """Return a job with other lengths: dotted key -> value.

    Raises:
        UserError: A value is outside of the limits of its setting.
    """
    if not lengths:
        return job
    data = job.model_dump(mode="json")
    for key, value in lengths.items():
        put(data, key, value, "run.equal_compute or run.equal_epochs")
    return parse_job(data)
