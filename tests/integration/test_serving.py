"""A family behind Ray Serve: answers, bad input, and a stop that loses no accepted request."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import run_silently

pytest.importorskip("grpc_reflection", reason="the extra raycomp[serve] is not installed")

NOT_CONNECTED = 0
UNAVAILABLE = 503


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def send(port: int, path: str, body: Any = None) -> tuple[int, Any]:
    """Return status and content of a response; a request that the server does not accept has status 0."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ConnectionRefusedError):
            raise
        return NOT_CONNECTED, None


@pytest.mark.slow
def test_a_family_answers_refuses_and_stops_without_a_lost_request(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    run_dir = run_silently(tiny_job, tmp_path)
    port = find_free_port()
    command = [sys.executable, "-m", "raycomp.cli", "serve", str(run_dir), "--runtime", "torch"]
    options = ["--port", str(port), "--p95-ms", "100", "--threads", "1"]
    server = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        lines = []
        for line in server.stdout:
            lines.append(line)
            if line.startswith("Serving"):
                break
        assert lines[-1].startswith("Serving teacher, "), lines

        models = send(port, "/models")[1]["models"]
        assert models[0]["name"] == "teacher"
        status, answer = send(port, "/predict", {"texts": ["a fine film", "dull"], "budget": "teacher"})
        assert (status, answer["network"]) == (200, "teacher")
        assert [result["label"] in ("bad", "good") for result in answer["results"]] == [True, True]
        for bad, code in (({"text": ""}, 400), ({"text": "word " * 100_000}, 413), ([], 400)):
            status, content = send(port, "/predict", bad)
            assert (status, list(content)) == (code, ["error"])
        assert send(port, "/unknown")[0] == 404

        def send_one(number: int) -> int:
            if number == 60:
                server.send_signal(signal.SIGINT)
            return send(port, "/predict", {"texts": ["a fine film"] * 20})[0]

        with ThreadPoolExecutor(32) as pool:
            statuses = list(pool.map(send_one, range(400)))
        # Every accepted request has an answer, and a refused one was told why.
        assert set(statuses) <= {200, UNAVAILABLE, NOT_CONNECTED}
        assert statuses.count(200) >= 60
        rest = server.stdout.read()
        assert server.wait(60) == 0
        assert f"All {statuses.count(200) + 1:,} accepted requests were answered." in rest
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()
