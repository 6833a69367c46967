"""A long search: 100,000 evaluations through the ledger, and 1,000 trials through Ray Tune.

    python -m benchmarks.load [--rows 100000] [--trials 1000] [--skip-trials]

The evaluators answer at once, so the measured time is raycomp's own: the ledger and its table, the
trials, and then `raycomp query` and `raycomp report` on the run. Prints the time of the last thousand
rows (last hundred trials) over that of the first, and the peak of the proportional set size (PSS) over
all processes of this benchmark. Takes about six minutes, four of them without the trials.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import resource
import statistics
import subprocess  # nosec B404  # raycomp's own commands
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.evaluation_row import make_evaluation_row
from benchmarks.measure import make_parser
from benchmarks.processes import total_memory_mib, watch_peak_memory
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

LAYERS = 6
HEADS = (2, 4, 8, 12)
FFN = (256, 512, 1024, 1536)
SHAPE = EncoderShape(
    vocab_size=30522,
    hidden_size=384,
    embedding_size=384,
    head_size=32,
    layer_heads=(12,) * LAYERS,
    layer_ffn=(1536,) * LAYERS,
    max_position_embeddings=512,
    type_vocab_size=2,
    num_labels=2,
)
WEIGHTS_ID = "w" * 16

# Rows of one time measurement, and architectures of one request of a trial.
ROWS_PER_MEASUREMENT = 1000
ROWS_PER_REQUEST = 8


def main() -> None:
    """Measure the rows, the commands on the run, and the trials."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--skip-trials", action="store_true")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "load-00000000"
        job = {"run": {"name": "load"}, "task": {"name": "demo/polarity"}}
        write_json(RunLayout(run_dir).job, job)
        measure_rows(run_dir, args.rows)
        measure_commands(run_dir)
        if not args.skip_trials:
            measure_trials(Path(folder), args.trials)


def measure_rows(run_dir: Path, count: int) -> None:
    """Score `count` architectures as trials do, a few at a time; then let a new ledger read them."""
    with watch_peak_memory() as peak_mib:
        start_mib = total_memory_mib()
        started = time.perf_counter()
        cpu_seconds = asyncio.run(_score_architectures(run_dir, count))
        seconds = time.perf_counter() - started

        rows = read_table(run_dir, "evaluations")
        assert len(rows) == rows["arch_id"].nunique() == count
        num_files = len(part_files(run_dir, "evaluations"))

        tenth = max(1, len(cpu_seconds) // 10)
        first_to_last = cpu_seconds[-1] / cpu_seconds[0]
        medians = statistics.median(cpu_seconds[-tenth:]) / statistics.median(cpu_seconds[:tenth])
        print(
            f"rows      {count:,} in {seconds:.0f} s, {num_files} files; "
            f"CPU time of the last {ROWS_PER_MEASUREMENT:,} over the first: {first_to_last:.2f} "
            f"(medians of a tenth: {medians:.2f}); "
            f"peak PSS {peak_mib():.0f} MiB, {peak_mib() - start_mib:.0f} above the start"
        )

    started = time.perf_counter()
    Ledger(str(run_dir), WEIGHTS_ID, "accuracy", [])
    print(f"restart   the ledger reads {count:,} rows in {time.perf_counter() - started:.1f} s")


async def _score_architectures(run_dir: Path, count: int) -> list[float]:
    """Return the CPU seconds of each ROWS_PER_MEASUREMENT rows. CPU time ignores other processes."""
    ledger = Ledger(str(run_dir), WEIGHTS_ID, "accuracy", [InstantEvaluator(), InstantEvaluator()])
    archs = generate_architectures(count)
    cpu_seconds = []
    while group := list(itertools.islice(archs, ROWS_PER_MEASUREMENT)):
        started = time.process_time()
        for first in range(0, len(group), ROWS_PER_REQUEST):
            await ledger.score(group[first : first + ROWS_PER_REQUEST], "selection", "fp32")
        cpu_seconds.append(time.process_time() - started)
    await ledger.flush()
    return cpu_seconds


def generate_architectures(count: int) -> Iterator[str]:
    """Yield `count` different random architectures as JSON."""
    rng = random.Random(0)  # nosec B311  # not used for secrets
    ids: set[str] = set()
    while len(ids) < count:
        heads = tuple(rng.choice(HEADS) for _ in range(LAYERS))
        ffn = tuple(rng.choice(FFN) for _ in range(LAYERS))
        arch = Architecture(LAYERS, heads, ffn)
        if arch.id not in ids:
            ids.add(arch.id)
            yield arch.to_json()


def make_row(arch_json: str, split: str, precision: str) -> dict[str, Any]:
    """Return the row of an evaluation whose score depends only on the architecture."""
    arch = Architecture.from_json(arch_json)
    value = int(arch.id[:6], 16) / 2**24
    return make_evaluation_row(arch, split, precision, value=value, seconds=0.0)


class InstantEvaluator:
    """An evaluator that answers at once, in the process of the ledger.

    The ledger sees an actor: it awaits `evaluate.remote`, and `__ray_ready__.remote` before.
    """

    def __init__(self) -> None:
        self.evaluate = self
        self.__ray_ready__ = SimpleNamespace(remote=self._start)

    async def _start(self) -> bool:
        return True

    async def remote(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        return [make_row(arch, split, precision) for arch in archs]


class InstantEvaluatorActor:
    """An evaluator that answers at once, to be started as an actor of Ray."""

    def evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        return [make_row(arch, split, precision) for arch in archs]


def measure_commands(run_dir: Path) -> None:
    """Time `raycomp query` and `raycomp report` on the run."""
    filters = ["--table", "evaluations", "--where", "value > 0.5 and params == 1", "--best", "value"]
    for name, arguments in (("query", [str(run_dir), *filters]), ("report", [str(run_dir)])):
        command = [sys.executable, "-m", "raycomp.cli", name, *arguments]
        started = time.perf_counter()
        cpu_before = _children_cpu_seconds()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # nosec B603  # constant
        seconds = time.perf_counter() - started
        cpu_seconds = _children_cpu_seconds() - cpu_before
        print(f"{name:<10}{seconds:.1f} s, {cpu_seconds:.1f} s of CPU time")


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure_trials(storage: Path, count: int) -> None:
    """Search `count` seeds of one budget, four evaluations each, through Ray Tune."""
    job = parse_job(
        {
            "run": {"name": "load"},
            "task": {"name": "demo/polarity"},
            "search": {"seeds": list(range(count)), "evaluations": 4, "batch": 4},
            "space": {"depth": [3, 6], "heads": list(HEADS), "ffn": list(FFN)},
            "budget": [{"name": "half", "encoder_params": "0.5x"}],
        }
    )
    run_dir = storage / job.run_id
    paths = RunLayout(run_dir).method("yoco")
    setup = SearchSetup(job, run_dir, SHAPE)
    sampler = build_sampler(job, train_plan(job, setup.space, SHAPE, 1000))
    write_json(paths.sampler, sampler.state_dict())

    start_local_cluster(
        num_cpus=2, log_to_driver=False, logging_level=logging.ERROR, object_store_memory=256 * 2**20
    )
    with watch_peak_memory() as peak_mib:
        evaluator_type = ray.remote(InstantEvaluatorActor).options(num_cpus=0.9)
        evaluators = [evaluator_type.remote() for _ in range(2)]
        ledger_type = ray.remote(Ledger).options(num_cpus=0, max_concurrency=10_000)
        ledger = ledger_type.remote(str(run_dir), WEIGHTS_ID, "accuracy", evaluators)

        started = time.perf_counter()
        outcomes = search_budgets(setup, ledger, "fp32", lambda done, total, best: None)
        seconds = time.perf_counter() - started

        finish_times = sorted(path.stat().st_mtime for path in paths.search_outcomes())
        assert len(outcomes) == len(finish_times) == count
        tenth = max(1, count // 10)
        last_tenth = finish_times[-1] - finish_times[-1 - tenth]
        second_tenth = finish_times[2 * tenth] - finish_times[tenth]
        print(
            f"trials    {count:,} in {seconds:.0f} s; the last {tenth} over the second {tenth} "
            f"(the first start their processes): {last_tenth / second_tenth:.2f}; "
            f"peak PSS of all processes {peak_mib():.0f} MiB"
        )
    ray.shutdown()


if __name__ == "__main__":
    main()
