"""Seeds of random draws, derived from the job's seed. Every formula is here.

The factors are large and different, which keeps the seeds of one job apart. They are never changed: a run
that resumes must draw the same numbers, and published results depend on them.
"""

from __future__ import annotations


def worker_seed(job_seed: int, rank: int) -> int:
    """Return the seed of one worker's training; each rank drops out other numbers."""
    return job_seed * 4099 + rank


def step_seed(seed: int, step: int) -> int:
    """Return torch's seed at one training step of one worker."""
    return (seed * 1_000_003 + step) % 2**63


def network_seed(step: int, network: str) -> int:
    """Return torch's seed of one network in a training step that several networks share.

    Args:
        step: Result of `step_seed`.
        network: Id of the network's architecture, 16 hex digits.
    """
    return (step + int(network, 16)) % 2**63


def trial_seed(job_seed: int, trial: int) -> int:
    """Return the seed of one trial of a search."""
    return job_seed * 10_007 + trial


def searcher_seed(trial: int) -> int:
    """Return the seed of a searcher; the initial set of its trial is drawn with the trial's own seed.

    Args:
        trial: Result of `trial_seed`.
    """
    return (trial * 2_000_003 + 1) % 2**63
