"""Load on a served family: 95th percentile, networks that answer, accuracy, and lost requests.

    python -m benchmarks.serve_load RUN [--p95-ms 100] [--seconds 10] [--budgets teacher,half]

Starts `raycomp serve` on this machine. Requests with one validation text each arrive at random times,
whether or not earlier ones are answered, and their times count from the moment at which they were due.
The load on the teacher grows until its 95th percentile is above the target. Twice that load then goes
to the family, and then a quarter. At the end the server is stopped while requests wait: the answers
that it counts are those that the sender has, or an accepted request was lost. Sender and server share
the CPUs. Takes about two minutes.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess  # nosec B404  # raycomp's own command
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks.measure import make_parser
from raycomp.config.loader import parse_stored
from raycomp.methods.context import RunContext
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout

GROWTH = 1.25
FIRST_RATE = 10.0

ANSWERED = 200
REFUSED = 503
CUT_OFF = 0
NOT_SENT = -1
"""Statuses of a request. The connection of one that was cut off ended without an answer."""


@dataclass(frozen=True)
class Rows:
    """Texts of a split, and the names of their classes."""

    texts: Sequence[str]
    labels: Sequence[str]


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    status: int
    answer_ms: float
    network: str
    is_right: bool


@dataclass(frozen=True)
class Phase:
    """The answers to one load."""

    name: str
    rate: float
    answers: Sequence[Answer]

    def count(self, status: int) -> int:
        return sum(answer.status == status for answer in self.answers)

    @property
    def p95_ms(self) -> float:
        """95th percentile over all requests; one without an answer took for ever."""
        times = [a.answer_ms if a.status == ANSWERED else float("inf") for a in self.answers]
        return float(np.percentile(times, 95, method="higher"))

    def line(self) -> str:
        answered = [answer for answer in self.answers if answer.status == ANSWERED]
        counts = Counter(answer.network for answer in answered)
        parts = []
        for network, count in counts.most_common():
            right = sum(answer.is_right for answer in answered if answer.network == network)
            parts.append(f"{network} {count / len(answered):.0%} (accuracy {right / count:.3f})")
        return (
            f"{self.name:<26} {self.rate:7.1f} /s  p95 {self.p95_ms:8.1f} ms  answered "
            f"{len(answered):6,}  refused {self.count(REFUSED):4,}  cut off {self.count(CUT_OFF):3,}  "
            + ", ".join(parts)
        )


def main() -> None:
    """Run the phases, and print a line for each."""
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--p95-ms", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--budgets", default="", help="as of raycomp serve; with the teacher")
    args = parser.parse_args()

    rows = read_rows(args.run)
    port = find_free_port()
    server = start_server(args.run, args.runtime, args.budgets, args.p95_ms, port)
    try:
        answered = asyncio.run(run_phases(server, port, rows, args.p95_ms, args.seconds))
        assert server.stdout is not None
        print(f"{server.stdout.read().strip()} The sender has {answered:,} answers.")
    finally:
        if server.poll() is None:
            server.terminate()
        server.wait(120)


def read_rows(run_dir: Path) -> Rows:
    """Return the validation texts of a run. A task of one text per row is needed."""
    job = parse_stored(read_json(RunLayout(run_dir).job))
    task = RunContext(job, run_dir, method=job.run.methods[0]).task
    split = task.validation[0]
    return Rows(split.text_a, [task.label_names[int(label)] for label in split.labels])


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_server(
    run_dir: Path, runtime: str, budgets: str, p95_ms: float, port: int
) -> subprocess.Popen[str]:
    """Start `raycomp serve`, and return it when it answers."""
    command = [sys.executable, "-m", "raycomp.cli", "serve", str(run_dir), "--runtime", runtime]
    command += ["--budgets", budgets, "--p95-ms", str(p95_ms), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # nosec B603
    assert server.stdout is not None
    for line in server.stdout:
        print(line, end="", flush=True)
        if line.startswith("Serving"):
            return server
    raise SystemExit("The server did not start.")


async def run_phases(
    server: subprocess.Popen[str], port: int, rows: Rows, p95_ms: float, seconds: float
) -> int:
    """Find the load that breaks the teacher, send twice that load to the family, and stop the server.

    Returns:
        The number of all answers.
    """
    url = f"http://127.0.0.1:{port}/predict"
    # Open connections are reused, and their number is not a limit: the queue is the server's.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        rate = FIRST_RATE
        answered = 0
        while True:
            phase = await send_load(session, url, "teacher", rows, rate, seconds, budget="teacher")
            answered += phase.count(ANSWERED)
            print(phase.line(), flush=True)
            if phase.p95_ms > p95_ms:
                break
            rate *= GROWTH

        for name, load in (("family, twice that load", 2 * rate), ("family, a quarter of it", rate / 4)):
            phase = await send_load(session, url, name, rows, load, seconds)
            answered += phase.count(ANSWERED)
            print(phase.line(), flush=True)

        def stop() -> None:
            server.send_signal(signal.SIGINT)

        phase = await send_load(session, url, "while the server stops", rows, 4 * rate, 2.0, then=stop)
        print(f"{phase.line()}; {phase.count(NOT_SENT):,} without a connection")
        return answered + phase.count(ANSWERED)


async def send_load(
    session: aiohttp.ClientSession,
    url: str,
    name: str,
    rows: Rows,
    rate: float,
    seconds: float,
    *,
    budget: str | None = None,
    then: Callable[[], None] | None = None,
) -> Phase:
    """Send requests at random times, and return all answers.

    Args:
        session: Connections.
        url: Address of the server.
        name: Name of the phase.
        rows: Texts to send.
        rate: Requests per second.
        seconds: Time over which they are sent.
        budget: Network that must answer.
        then: Called after half of the time.
    """
    rng = np.random.default_rng(0)
    due = np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))
    order = rng.integers(len(rows.texts), size=len(due))
    began = time.perf_counter()
    tasks = []

    for delay, row in zip(due.tolist(), order.tolist(), strict=True):
        if then is not None and delay > seconds / 2:
            then()
            then = None
        await asyncio.sleep(max(0.0, began + delay - time.perf_counter()))
        tasks.append(asyncio.ensure_future(send(session, url, rows, row, budget, began + delay)))

    return Phase(name, rate, await asyncio.gather(*tasks))


async def send(
    session: aiohttp.ClientSession, url: str, rows: Rows, row: int, budget: str | None, due_s: float
) -> Answer:
    """Send one text, and return what became of it."""
    body: dict[str, Any] = {"text": rows.texts[row]}
    if budget is not None:
        body["budget"] = budget
    try:
        async with session.post(url, json=body) as response:
            content = json.loads(await response.text())
            status = response.status
    except aiohttp.ClientConnectorError:
        return Answer(NOT_SENT, 0.0, "", False)
    except aiohttp.ClientError:
        return Answer(CUT_OFF, 0.0, "", False)

    answer_ms = (time.perf_counter() - due_s) * 1000
    if status != ANSWERED:
        return Answer(status, answer_ms, "", False)
    is_right = content["results"][0]["label"] == rows.labels[row]
    return Answer(status, answer_ms, content["network"], is_right)


if __name__ == "__main__":
    main()
