"""A search for eight budgets over one for the most expensive budget: evaluations and wall time.

    python -m benchmarks.claims.budgets

Also the same search again. This is the real search: Ray Tune, a trial for each budget, one ledger, and
two evaluator actors that have the demo's network and score 160 sentences. The most expensive budget is
the largest, whose networks are slowest. The second search of a run finds its rows in storage. Takes
about two minutes.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from benchmarks.measure import Claim, Options, PairedFigures, run_claims
from benchmarks.ranks import local_ray
from benchmarks.workload import demo_context, whole_space_sampler
from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext
from raycomp.runtime.scoring.deployment_search import search_budgets
from raycomp.runtime.scoring.evaluators import start_scoring
from raycomp.runtime.scoring.ledger import Ledger
from raycomp.search.setup import SearchSetup
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tensors import save_tensors

# Shares of the encoder's parameters.
SHARES = (0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35)
LARGEST_SHARE = SHARES[:1]

# G groups ask for at most G^0.45 times the evaluations of one (decision 3): each has some of its own.
MOST = round(len(SHARES) ** 0.45, 2)


@dataclass(frozen=True)
class SearchCost:
    """Evaluations that a search computed, and its seconds."""

    evaluations: float
    seconds: float


def measure(options: Options) -> list[Claim]:
    """Search in turns: one budget, the same again, eight budgets."""
    num_rows, num_evaluations = (20, 4) if options.quick else (160, 32)
    context = demo_context(f"task.selection={num_rows}", f"search.evaluations={num_evaluations}")
    with local_ray(), tempfile.TemporaryDirectory() as folder:
        return compare_searches(Searches(context, Path(folder)), options.runs)


def compare_searches(searches: Searches, runs: int) -> list[Claim]:
    """Return the claims after `runs` searches of each kind."""
    one: list[SearchCost] = []
    again: list[SearchCost] = []
    eight: list[SearchCost] = []

    searches.run("warm", LARGEST_SHARE)
    for run in range(runs):
        one.append(searches.run(f"one-{run}", LARGEST_SHARE))
        searches.delete_outcomes(f"one-{run}")
        again.append(searches.run(f"one-{run}", LARGEST_SHARE))
        eight.append(searches.run(f"eight-{run}", SHARES))

    def pair(a: list[SearchCost], b: list[SearchCost], figure: str) -> PairedFigures:
        return PairedFigures(
            tuple(getattr(cost, figure) for cost in a), tuple(getattr(cost, figure) for cost in b)
        )

    return [
        Claim.from_figures(
            "8 budgets / the most expensive one, evaluations",
            pair(eight, one, "evaluations"),
            "lower",
            MOST,
        ),
        Claim.from_figures(
            "8 budgets / the most expensive one, wall time", pair(eight, one, "seconds"), "lower", MOST
        ),
        Claim.from_figures(
            "the same search again, evaluations", pair(again, one, "evaluations"), "lower", 0.0
        ),
    ]


class Searches:
    """Searches over one untrained super-network, with evaluators that all searches share.

    Args:
        context: Context of the job.
        folder: Directory for the run directories of the searches.
    """

    def __init__(self, context: RunContext, folder: Path) -> None:
        self.context = context
        self.folder = folder
        self.sampler_state = whole_space_sampler(context).state_dict()
        self.evaluators = self._start_evaluators()

    def _start_evaluators(self) -> list[Any]:
        """Write a run directory with a super-network, and start evaluators that have loaded it."""
        run_dir = self.folder / "evaluated"
        run_dir.mkdir()
        context = RunContext(self.context.job, run_dir)
        context.record_facts()
        context.tokens("selection")
        supernet = RunLayout(run_dir).method("yoco").supernet_network
        save_tensors(supernet, context.network().state_dict())

        job = context.job.model_dump(mode="json")
        ledger, evaluators = start_scoring(job, run_dir, "bench", context.primary)
        largest = self.context.space.largest().to_json()
        ray.get([evaluator.evaluate.remote([largest], "selection", "fp32") for evaluator in evaluators])
        # Each search gets a ledger of its own.
        ray.kill(ledger)
        return evaluators

    def run(self, name: str, shares: tuple[float, ...]) -> SearchCost:
        """Search a budget for each share in run directory `name`."""
        run_dir = self.folder / name
        run_dir.mkdir(exist_ok=True)
        job = self.context.job.model_dump(mode="json")
        job["budget"] = [
            {"name": f"b{share:g}".replace(".", "_"), "encoder_params": f"{share}x"} for share in shares
        ]
        setup = SearchSetup(parse_job(job), run_dir, self.context.shape)
        write_json(RunLayout(run_dir).method("yoco").sampler, self.sampler_state)
        ledger_type = ray.remote(Ledger).options(num_cpus=0, max_concurrency=10_000)
        ledger: Any = ledger_type.remote(str(run_dir), "bench", self.context.primary, self.evaluators)

        num_before = len(ray.get(ledger.list_scores.remote()))
        started = time.perf_counter()
        search_budgets(setup, ledger, "fp32", lambda done, total, best: None)
        seconds = time.perf_counter() - started
        num_after = len(ray.get(ledger.list_scores.remote()))

        ray.get(ledger.flush.remote())
        ray.kill(ledger)
        return SearchCost(float(num_after - num_before), seconds)

    def delete_outcomes(self, name: str) -> None:
        """Delete the outcomes of a search, so that it runs again on the rows of its ledger."""
        shutil.rmtree(RunLayout(self.folder / name).method("yoco").search)


if __name__ == "__main__":
    run_claims(__doc__, measure)
