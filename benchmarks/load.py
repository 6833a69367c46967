"""A long search: 100,000 evaluation rows through the ledger, and 1,000 trials through Ray Tune.

    python benchmarks/load.py [--rows 100000] [--trials 1000] [--skip-trials]

Scores come from evaluators that answer at once, so that what is measured is raycomp's own: the ledger,
its table, Tune's trials, and afterwards `raycomp query` and `raycomp report` on the run. Prints the time
of the last thousand rows (last hundred trials) over that of the first, and the peak of proportional set
size (PSS) over all processes of this benchmark.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import random
import resource
import statistics
import subprocess  # nosec B404  # raycomp's own commands
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.methods.yoco.plan import build_sampler, train_plan
from raycomp.runtime.cluster.connect import ray, start_local_cluster
from raycomp.runtime.scoring.deployment_search import search_budgets
from raycomp.runtime.scoring.ledger import Ledger
from raycomp.search.setup import SearchSetup
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import part_files, read_table

LAYERS, HEADS, FFN = 6, (2, 4, 8, 12), (256, 512, 1024, 1536)
SHAPE = EncoderShape(
    vocab_size=30522, hidden_size=384, embedding_size=384, head_size=32, layer_heads=(12,) * LAYERS,
    layer_ffn=(1536,) * LAYERS, max_position_embeddings=512, type_vocab_size=2, num_labels=2,
)  # fmt: skip
BLOCK, TOGETHER = 1000, 8  # rows of a measurement; architectures that a trial asks for at a time


def row(arch: str, split: str, precision: str) -> dict[str, Any]:
    """What an evaluator answers; its score is a function of the architecture alone."""
    value = int(Architecture.from_json(arch).id[:6], 16) / 2**24
    return {
        "arch_id": Architecture.from_json(arch).id, "arch": arch, "split": split, "precision": precision,
        "metric": "accuracy", "value": value, "loss": 1 - value, "examples": 100, "params": 1,
        "flops": 1.0, "seconds": 0.0,
    }  # fmt: skip


class Prompt:
    """An evaluator as the ledger sees an actor: `evaluate.remote` gives something to await."""

    def __init__(self) -> None:
        self.evaluate = self

    async def remote(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        return [row(arch, split, precision) for arch in archs]


class Answering:
    """The same as an actor of Ray."""

    def evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        return [row(arch, split, precision) for arch in archs]


def architectures(count: int) -> Iterator[str]:
    """Different architectures in an order of no meaning."""
    rng, seen = random.Random(0), set()  # nosec B311  # no secret depends on it
    while len(seen) < count:
        heads, ffn = (tuple(rng.choice(of) for _ in range(LAYERS)) for of in (HEADS, FFN))
        arch = Architecture(LAYERS, heads, ffn)
        if arch.id not in seen:
            seen.add(arch.id)
            yield arch.to_json()


def pss() -> int:
    """Bytes of this process and all below it, each shared page counted once in all."""
    total, parents = 0, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    for pid in parents:
        above = pid
        while above > 1 and above != os.getpid():
            above = parents.get(above, 0)
        if above == os.getpid():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += 1024 * int(next(x for x in lines if x.startswith("Pss:")).split()[1])
            except (OSError, StopIteration):
                continue
    return total


@contextmanager
def watched() -> Iterator[Callable[[], float]]:
    """Give a function that returns the peak PSS in MiB while the block runs."""
    peak, stop = [pss()], threading.Event()

    def look() -> None:
        while not stop.wait(1.0):
            peak.append(pss())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield lambda: max(peak) / 2**20
    stop.set()
    thread.join()


def rows(run: Path, count: int) -> None:
    """Score `count` architectures, as trials do, a few at a time."""
    with watched() as peak:
        before = pss() / 2**20

        async def score() -> list[float]:
            ledger = Ledger(str(run), "w" * 16, "accuracy", [Prompt(), Prompt()])
            taken, archs = [], architectures(count)
            while block := list(itertools.islice(archs, BLOCK)):
                began = time.process_time()  # the machine may have other work
                for first in range(0, len(block), TOGETHER):
                    await ledger.score(block[first : first + TOGETHER], "selection", "fp32")
                taken.append(time.process_time() - began)
            await ledger.flush()
            return taken

        began = time.perf_counter()
        taken = asyncio.run(score())
        seconds = time.perf_counter() - began
        ratio = taken[-1] / taken[0]
        tenth = max(1, len(taken) // 10)
        smooth = statistics.median(taken[-tenth:]) / statistics.median(taken[:tenth])
        frame = read_table(run, "evaluations")
        assert len(frame) == frame["arch_id"].nunique() == count
        print(
            f"rows      {count:,} in {seconds:.0f} s, {len(part_files(run, 'evaluations'))} files; "
            f"processor time of the last {BLOCK:,} over the first: {ratio:.2f} (medians of a tenth: "
            f"{smooth:.2f}); peak PSS {peak():.0f} MiB, {peak() - before:.0f} above the start"
        )
    began = time.perf_counter()
    Ledger(str(run), "w" * 16, "accuracy", [])
    print(f"restart   the ledger reads {count:,} rows in {time.perf_counter() - began:.1f} s")


def commands(run: Path) -> None:
    """Time what a user asks of such a run."""
    where = ["--table", "evaluations", "--where", "value > 0.5 and params == 1", "--best", "value"]
    for name, arguments in (("query", [str(run), *where]), ("report", [str(run)])):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(  # nosec B603  # a constant command
            [sys.executable, "-m", "raycomp.cli", name, *arguments], check=True, stdout=subprocess.DEVNULL
        )
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        print(f"{name:<10}{time.perf_counter() - began:.1f} s, {cpu:.1f} s of the processor")


def trials(storage: Path, count: int) -> None:
    """Search `count` seeds of one budget, four evaluations each, through Ray Tune."""
    job = parse_job({
        "run": {"name": "load"}, "task": {"name": "demo/polarity"},
        "search": {"seeds": list(range(count)), "evaluations": 4, "batch": 4},
        "space": {"depth": [3, 6], "heads": [2, 4, 8, 12], "ffn": [256, 512, 1024, 1536]},
        "budget": [{"name": "half", "encoder_params": "0.5x"}],
    })  # fmt: skip
    run = storage / job.run_id
    place = SearchSetup(job, run, SHAPE)
    sampler = build_sampler(job, train_plan(job, place.space, SHAPE, 1000))
    write_json(RunLayout(run).method("yoco").sampler, sampler.state_dict())
    start_local_cluster(
        num_cpus=2, log_to_driver=False, logging_level=logging.ERROR, object_store_memory=256 * 2**20
    )
    with watched() as peak:
        answering = [ray.remote(Answering).options(num_cpus=0.9).remote() for _ in range(2)]
        ledger = (
            ray.remote(Ledger)
            .options(num_cpus=0, max_concurrency=10_000)
            .remote(str(run), "w" * 16, "accuracy", answering)
        )
        began = time.perf_counter()
        found = search_budgets(place, ledger, "fp32", lambda done, total, best: None)
        seconds = time.perf_counter() - began
        ends = sorted(p.stat().st_mtime for p in (run / "search").glob("half.*.json"))
        assert len(found) == len(ends) == count
        part = max(1, count // 10)
        ratio = (ends[-1] - ends[-1 - part]) / (ends[2 * part] - ends[part])
        print(
            f"trials    {count:,} in {seconds:.0f} s; the last {part} over the second {part} (the first "
            f"start their processes): {ratio:.2f}; peak PSS of all processes {peak():.0f} MiB"
        )
    ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--skip-trials", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "load-00000000"
        write_json(RunLayout(run).job, {"run": {"name": "load"}, "task": {"name": "demo/polarity"}})
        rows(run, args.rows)
        commands(run)
        if not args.skip_trials:
            trials(Path(folder), args.trials)


if __name__ == "__main__":
    main()
