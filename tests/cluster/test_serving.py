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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from transformers import BertForSequenceClassification

from raycomp.config.loader import parse_job
from raycomp.encoder.export import export_model
from raycomp.methods.facts import Facts
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.rows import DeploymentRow
from raycomp.storage.tables import write_rows
from tests.conftest import make_tokenizer
from tests.unit.encoder.test_export import CARD

pytest.importorskip("grpc_reflection", reason="the extra raycomp[serve] is not installed")

NOT_CONNECTED = 0
CUT_OFF = -1
UNAVAILABLE = 503


@pytest.fixture
def served_run(tuned_model: Path, tiny_job: dict[str, Any], tmp_path: Path) -> Path:
    """A run with a teacher and a budget, whose files for torch are written: nothing is trained."""
    layout = RunLayout(tmp_path / "tiny-12345678")
    write_json(layout.job, parse_job(tiny_job).model_dump(mode="json"))
    facts = Facts({}, True, "", None, "classification", 2, False, ("accuracy",), "accuracy")
    write_json(layout.facts, asdict(facts))
    write_json(layout.teacher_score, {})
    row = DeploymentRow(
        run=layout.path.name, method="yoco", budget="half", kind="encoder_params", limit=1.0,
        feasible=True,
        searcher="sng", seed=0, metric="accuracy", evaluations=1, seconds=1.0, teacher_validation=0.9,
        arch_id="a", arch="{}", full_params=2.0, params=1, cost=1.0, selection=0.8, validation=0.8,
    )  # fmt: skip
    write_rows(layout.path, "deployments", [row.to_row()], "yoco")

    for name, arch_id, selection in (("teacher", "t", 0.9), ("yoco-half", "a", 0.8)):
        folder = layout.devices.served_model("torch", name)
        model = BertForSequenceClassification.from_pretrained(tuned_model)
        card = {**CARD, "selection": selection}
        export_model(model, make_tokenizer(), folder, ["bad", "good"], card)
        files = [{"file": "model.safetensors", "selection": selection}]
        certificate = {"files": files, "arch_id": arch_id, "params": 1, "notes": []}
        write_json(folder / "certificate.json", certificate)

    return layout.path


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def send(port: int, path: str, body: Any = None) -> tuple[int, Any]:
    """Return status and content of a response, or why there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    except urllib.error.URLError as error:
        return (NOT_CONNECTED if isinstance(error.reason, ConnectionRefusedError) else CUT_OFF), None
    except ConnectionError:
        return CUT_OFF, None


@pytest.mark.slow
def test_a_family_answers_refuses_and_stops_without_a_lost_request(
    served_run: Path,
) -> None:
    port = find_free_port()
    command = [sys.executable, "-m", "raycomp.cli", "serve", str(served_run), "--runtime", "torch"]
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
        # New requests are refused. In the last moment, Ray Serve has forgotten the paths.
        assert set(statuses) <= {200, UNAVAILABLE, 404, NOT_CONNECTED, CUT_OFF}
        assert statuses.count(200) >= 60
        rest = server.stdout.read()
        assert server.wait(60) == 0
        # As many answers arrived as the server has accepted requests: none was lost.
        assert f"All {statuses.count(200) + 1:,} accepted requests were answered." in rest
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()
