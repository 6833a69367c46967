"""Eight budgets against the dearest one, and the same search again: evaluations and wall time.

The real search: Ray Tune, a trial a budget, one ledger, two evaluator actors that hold the demo's
network and score 160 sentences. The dearest budget is the largest, whose networks are slowest. The
second search of a run finds its ledger's rows on storage.
"""

from __future__ import annotations

import shutil
import tempfile
import time
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

SHARES = (0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35)


def measure(settings: Options) -> list[Claim]:
    """Search in turns: one budget, the same again, eight budgets."""
    rows, asked = (20, 4) if settings.quick else (160, 32)
    context = demo_context(f"task.selection={rows}", f"search.evaluations={asked}")
    with local_ray(), tempfile.TemporaryDirectory() as folder:
        return _claims(Searches(context, Path(folder)), settings.runs)


def _claims(searches: Searches, runs: int) -> list[Claim]:
    found: dict[str, list[tuple[float, float]]] = {"one": [], "again": [], "eight": []}
    searches.run("warm", SHARES[:1])
    for run in range(runs):
        found["one"].append(searches.run(f"one-{run}", SHARES[:1]))
        shutil.rmtree(searches.folder / f"one-{run}" / "search")
        found["again"].append(searches.run(f"one-{run}", SHARES[:1]))
        found["eight"].append(searches.run(f"eight-{run}", SHARES))

    def paired(a: str, b: str, column: int) -> PairedFigures:
        return PairedFigures(tuple(r[column] for r in found[a]), tuple(r[column] for r in found[b]))

    return [
        Claim.from_figures(
            "8 budgets / the dearest one, evaluations", paired("eight", "one", 0), "lower", 1.3
        ),
        Claim.from_figures(
            "8 budgets / the dearest one, wall time", paired("eight", "one", 1), "lower", 1.3
        ),
        Claim.from_figures("the same search again, evaluations", paired("again", "one", 0), "lower", 0.0),
    ]


class Searches:
    """A run's folder with an untrained super-network, and evaluators that several searches share."""

    def __init__(self, context: RunContext, folder: Path) -> None:
        self.context, self.folder = context, folder
        home = RunContext(context.job, folder / "home")
        (folder / "home").mkdir()
        home.record_facts()
        home.tokens("selection")
        save_tensors(folder / "home" / "supernet" / "network.safetensors", home.network().state_dict())
        self.theta = whole_space_sampler(context).state_dict()
        data = context.job.model_dump(mode="json")
        ledger, self.evaluators = start_scoring(data, home.run_dir, "bench", context.primary)
        largest = context.space.largest().to_json()
        ray.get([e.evaluate.remote([largest], "selection", "fp32") for e in self.evaluators])
        ray.kill(ledger)

    def run(self, name: str, shares: tuple[float, ...]) -> tuple[float, float]:
        """Search budgets in a folder; return the evaluations that were computed, and seconds."""
        folder, data = self.folder / name, self.context.job.model_dump(mode="json")
        data["budget"] = [
            {"name": f"b{s:g}".replace(".", "_"), "encoder_params": f"{s}x"} for s in shares
        ]
        folder.mkdir(exist_ok=True)
        write_json(RunLayout(folder).method("yoco").sampler, self.theta)
        ledger: Any = (
            ray.remote(Ledger)
            .options(num_cpus=0, max_concurrency=10_000)
            .remote(str(folder), "bench", self.context.primary, self.evaluators)
        )
        before = len(ray.get(ledger.list_scores.remote()))
        began = time.perf_counter()
        blueprint = SearchSetup(parse_job(data), folder, self.context.shape)
        search_budgets(blueprint, ledger, "fp32", lambda done, total, best: None)
        seconds = time.perf_counter() - began
        count = len(ray.get(ledger.list_scores.remote())) - before
        ray.get(ledger.flush.remote())
        ray.kill(ledger)
        return float(count), seconds


if __name__ == "__main__":
    run_claims(__doc__, measure)
