"""How cost grows with budgets, workers, the space and the data.

    python -m benchmarks.growth [--only budgets workers space data] [--quick] [--out FILE.json]

Writes benchmarks/results/growth-<machine>-<date>.json: rows of (what, series, x, value, unit, simulated),
which `raycomp report RUN --growth FILE` draws; prints for each series the exponent p of value ~ x^p,
fitted by least squares on logarithms: 1 is proportional, 0 does not grow.

budgets: the real search (Tune, ledger, searchers) over 1 to 16 budgets; evaluators sleep 50 ms in
place of a forward pass. workers: 1 and 2 are measured (where there are two processors); up to 64 are
simulated from a measured step, the bytes of its gradients, and a network of `--gbits` and
`--latency-us` in a ring all-reduce. space: EE-SNG and the deployment search on spaces of 10^6 to 10^13.
data: tokenising, and scoring one architecture.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import NotMeasurableError, Options, measure_in_turns, timed
from benchmarks.run_all import ROOT, machine_name
from benchmarks.workload import demo_context, make_supernet_step, training_batches, whole_space_sampler
from raycomp.config.loader import parse_job
from raycomp.data.tokens import tokenise
from raycomp.encoder.architecture import Architecture, enclosing_architecture
from raycomp.encoder.slicing import WORD_EMBEDDING
from raycomp.methods.yoco.eesng import EESNG, EESNGSettings
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.report.growth import GrowthPoint, fit_exponent, group_by_series
from raycomp.search.budget import SearchBudget
from raycomp.search.searchers import make_searcher
from raycomp.search.setup import SearchSetup
from raycomp.search.space import SearchSpace
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout
from raycomp.training.evaluation import predict_logits

CPU = torch.device("cpu")
SLEEP_SECONDS = 0.05
BATCHES = 4


@dataclass(frozen=True)
class Network:
    """What the simulation takes a network to be.

    Attributes:
        gbits: of each link, both ways at once.
        latency_us: of one message.
    """

    gbits: float
    latency_us: float

    def all_reduce_seconds(self, size: float, workers: int) -> float:
        """Return the seconds of a ring all-reduce of `size` bytes."""
        if workers == 1:
            return 0.0
        sent = 2 * (workers - 1) / workers * size * 8 / (self.gbits * 1e9)
        return sent + 2 * (workers - 1) * self.latency_us * 1e-6


def main() -> None:
    """Measure what is asked for; print and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="the smallest sizes; writes no results")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--gbits", type=float, default=10.0)
    parser.add_argument("--latency-us", type=float, default=50.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    settings = Options(1 if args.quick else args.runs, args.quick, "cpu")
    network, rows = Network(args.gbits, args.latency_us), []
    for name in args.only:
        rows += show(PARTS[name](settings, network))
    out = args.out
    if out is None and not args.quick and set(args.only) == set(PARTS):
        date = datetime.date.today().isoformat()
        out = ROOT / "benchmarks" / "results" / f"growth-{machine_name('cpu')}-{date}.json"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
        print(f"written to {out}")


def show(rows: list[GrowthPoint]) -> list[GrowthPoint]:
    """Print a line a series: its values by size, and how it grows."""
    for name, line in group_by_series(rows).items():
        points = ", ".join(f"{r.x:g}{'*' if r.simulated else ''}: {r.value:.4g}" for r in line)
        grows = fit_exponent([r.x for r in line], [r.value for r in line])
        said = f"{name}, {line[0].unit}"
        print(f"{line[0].what:<8} {said:<56} p = {grows:5.2f}   {points}", flush=True)
    return rows


def budgets(settings: Options, network: Network) -> list[GrowthPoint]:
    """Search 1 to 16 budgets with evaluators that sleep: evaluations and wall time."""
    import ray

    from benchmarks.ranks import local_ray
    from raycomp.runtime.scoring.deployment_search import search_budgets
    from raycomp.runtime.scoring.ledger import Ledger

    context, found = demo_context(f"search.evaluations={8 if settings.quick else 64}"), []
    shape, theta = context.shape, whole_space_sampler(context).state_dict()
    with local_ray(), tempfile.TemporaryDirectory() as folder:
        for count in (0, 1, 2, 4, 8, 16)[: 3 if settings.quick else None]:
            data, run_dir = context.job.model_dump(mode="json"), Path(folder) / str(count)
            shares = np.linspace(0.8, 0.35, max(1, count)).round(3)
            data["budget"] = [{"name": f"b{i}", "encoder_params": f"{s}x"} for i, s in enumerate(shares)]
            run_dir.mkdir()
            write_json(RunLayout(run_dir).method("yoco").sampler, theta)
            sleepers = [ray.remote(Sleeper).options(num_cpus=0).remote() for _ in range(2)]
            ledger: Any = ray.remote(Ledger).options(num_cpus=0, max_concurrency=10_000)
            ledger = ledger.remote(str(run_dir), "growth", context.primary, sleepers)
            ray.get(ledger.list_scores.remote())
            began = time.perf_counter()
            search_budgets(
                SearchSetup(parse_job(data), run_dir, shape), ledger, "fp32", lambda d, t, best: None
            )
            taken = time.perf_counter() - began
            if count:  # 0 warms Tune up
                asked = len(ray.get(ledger.list_scores.remote()))
                found.append(
                    GrowthPoint("budgets", "evaluations of a search", count, asked, "evaluations")
                )
                found.append(GrowthPoint("budgets", "wall time of a search", count, taken, "s"))
            for actor in (ledger, *sleepers):
                ray.kill(actor)
    return found


class Sleeper:
    """An evaluator that sleeps, and scores by size: the larger, the better."""

    def evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        """Return rows of table `evaluations`, after one sleep for each."""
        time.sleep(SLEEP_SECONDS * len(archs))
        return [self._row(arch, split, precision) for arch in archs]

    def _row(self, arch: str, split: str, precision: str) -> dict[str, Any]:
        value = Architecture.from_json(arch)
        size = float(sum(value.ffn) + 128 * sum(value.heads))
        return {
            "arch_id": value.id, "arch": arch, "split": split, "precision": precision,
            "metric": "accuracy", "value": size / 2e4, "loss": 1.0, "examples": 1, "params": 1,
            "flops": 1.0, "seconds": SLEEP_SECONDS,
        }  # fmt: skip


def workers(settings: Options, network: Network) -> list[GrowthPoint]:
    """Seconds a step with 32 sentences a worker: 1 and 2 measured, up to 64 simulated."""
    one, size = _one_worker(settings)
    measured = {1: one}
    try:
        measured[2] = _two_workers(settings)
    except NotMeasurableError as reason:
        print(f"workers: 2 not measured: {reason}")
    calls, name = _actor_seconds(settings), "step of 32 sentences a worker"
    rows = [GrowthPoint("workers", name, count, taken, "s") for count, taken in measured.items()]
    for count, asked in calls.items():
        taken = one + asked + network.all_reduce_seconds(size, count)
        rows.append(GrowthPoint("workers", f"{name}, simulated", count, taken, "s", True))
        rows.append(
            GrowthPoint("workers", "the sampler actor's part of a step", count, 1000 * asked, "ms")
        )
    return rows


def _one_worker(settings: Options) -> tuple[float, float]:
    """Return the seconds of a step on one processor, and the bytes of its gradients."""
    context, threads = demo_context(), torch.get_num_threads()
    held, model = training_batches(context, 32, 1 if settings.quick else BATCHES, CPU), context.network()
    step, done = make_supernet_step(model, whole_space_sampler(context), "fp32", CPU), 0

    def epoch() -> None:
        nonlocal done
        for batch in held:
            step(done, batch)
            done += 1

    torch.set_num_threads(1)
    taken = float(np.median(measure_in_turns([timed(epoch)], settings.runs)[0])) / len(held)
    torch.set_num_threads(threads)
    parameters = dict(model.named_parameters())
    active = model.active_parameters(enclosing_architecture(whole_space_sampler(context).ask(0)))
    sent = sum(parameters[name][where].numel() for name, where in active if name != WORD_EMBEDDING)
    words = float(np.mean([len(b.input_ids.unique()) for b in held]))  # of the table, a batch's alone
    return taken, 4.0 * (sent + words * parameters[WORD_EMBEDDING].shape[1])


def _actor_seconds(settings: Options) -> dict[int, float]:
    """Return what one step's asks and tells cost, by the number of workers that call together."""
    import ray

    from benchmarks.ranks import local_ray
    from raycomp.methods.yoco.plan import train_plan
    from raycomp.runtime.training.sampler_client import start_sampler

    context, found = demo_context(), {}
    plan = train_plan(context.job, context.space, context.shape, 10_000)
    plan["steps"] = [0] * (len(plan["steps"]) - 1) + [100_000]
    with local_ray(), tempfile.TemporaryDirectory() as folder:
        for world in (1, 2, 4, 8, 16, 32, 64)[: 2 if settings.quick else None]:
            path, attempt = Path(folder) / f"{world}.json", "growth"
            job = context.job.model_dump(mode="json")
            actor: Any = start_sampler(f"growth-{world}", job, plan, path)
            ray.get(actor.begin.remote(attempt, world, 0, None, 60.0))
            taken, (step, drawn) = [], ray.get(actor.ask.remote(attempt, 0))
            for _ in range(4 * settings.runs):
                began, steps = time.perf_counter(), len(drawn)
                told = [[1.0] * len(archs) for archs, _ in drawn]
                calls = [actor.tell.remote(attempt, r, step, told) for r in range(world)]
                step, drawn = ray.get(calls)[0]
                taken.append((time.perf_counter() - began) / steps)
            found[world] = float(np.median(taken))
            ray.kill(actor)
    return found


def _two_workers(settings: Options) -> float:
    """Return the seconds of a step of two ranks with 32 sentences each, gloo between them."""
    import ray

    from benchmarks.ranks import WORLD, start_two_ranks

    count = 1 if settings.quick else BATCHES
    with start_two_ranks() as ranks:
        ray.get([r.prepare.remote(32 * WORLD, count) for r in ranks])
        ray.get([r.train.remote(WORLD) for r in ranks])
        taken = [max(ray.get([r.train.remote(WORLD) for r in ranks])) for _ in range(settings.runs)]
    return float(np.median(taken)) / count


SPACES = {
    1e6: SearchSpace(6, (3, 4, 5, 6), (4, 8, 12), (256, 384, 512, 1536)),
    1e9: SearchSpace(8, (5, 6, 7, 8), (4, 8, 12), (256, 384, 512, 1536)),
    1e13: SearchSpace(12, (6, 8, 10, 12), (4, 8, 12), (512, 768, 1024, 3072)),
}


def space(settings: Options, network: Network) -> list[GrowthPoint]:
    """Milliseconds of one ask, tell and uniform draw, by the size of the space."""
    rows, steps = [], 5 if settings.quick else 200
    for held in SPACES.values():
        size = float(held.num_architectures())
        for name, count, work in _calls(held, steps):
            taken = float(np.median(measure_in_turns([timed(work)], settings.runs)[0]))
            rows.append(GrowthPoint("space", name, size, 1000 * taken / count, "ms"))
    return rows


def _calls(held: SearchSpace, steps: int) -> list[tuple[str, int, Callable[[], object]]]:
    """Return what a training and a search ask of a space, and how often each work does it."""

    def cost(arch: Architecture) -> float:
        return float(sum(arch.ffn) + 128 * sum(arch.heads))

    opened = progressive_phases(held)
    schedule = Schedule(opened, (0,) * (len(opened) - 1) + (10**6,))
    costs = held.layer_sums(lambda heads, ffn: ffn + 128 * heads)
    sampler = EESNG(held, schedule, EESNGSettings(), costs)
    rng, done = np.random.default_rng(0), 0
    limit = 0.5 * cost(held.largest())
    searcher = make_searcher(
        "sng", held, sampler.state_dict(), SearchBudget(cost, limit, cost(held.largest())), 0
    )

    def train() -> None:
        nonlocal done
        for _ in range(steps):
            sampler.tell(done, [cost(a) for a in sampler.ask(done)])
            done += 1

    few = max(1, steps // 20)

    def search() -> None:
        for _ in range(few):
            archs = searcher.ask(8)
            searcher.tell(archs, [1.0] * len(archs), [cost(a) for a in archs])

    return [
        ("EE-SNG, an ask and tell of two", steps, train),
        ("search, an ask and tell of eight", few, search),
        ("uniform draw", steps, lambda: [held.sample_uniform(rng) for _ in range(steps)]),
    ]


def data(settings: Options, network: Network) -> list[GrowthPoint]:
    """Seconds of tokenising and of scoring one architecture, by the number of sentences."""
    from dataclasses import replace

    from benchmarks.claims.evaluation import first_rows

    context, rows = demo_context(), []
    train, tokens, model = context.task.train, context.tokens("train"), context.network().eval()
    arch = context.space.smallest()
    for count in (250, 1000, 4000)[: 2 if settings.quick else None]:
        split = replace(train, text_a=train.text_a[:count], labels=train.labels[:count])
        few = first_rows(tokens, count)
        works: dict[str, Callable[[], object]] = {
            "tokenising": lambda s=split: tokenise(  # type: ignore[misc]
                s, lambda: context.tokenizer, context.facts.tokenizer, 64, None
            ),
            "scoring the smallest network": lambda f=few: predict_logits(  # type: ignore[misc]
                lambda batch: model(batch, arch).logits, f, pad_id=context.pad_id,
                max_tokens=4096, precision="fp32", device=CPU,
            ),
        }  # fmt: skip
        taken = measure_in_turns([timed(w) for w in works.values()], min(3, settings.runs))
        for name, each in zip(works, taken, strict=True):
            rows.append(GrowthPoint("data", name, count, float(np.median(each)), "s"))
    return rows


PARTS: dict[str, Callable[[Options, Network], list[GrowthPoint]]] = {
    "budgets": budgets, "workers": workers, "space": space, "data": data,
}  # fmt: skip


if __name__ == "__main__":
    main()
