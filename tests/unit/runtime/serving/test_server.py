"""The HTTP paths of a replica, and what stops a server before it starts; Ray is not started."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import BertForSequenceClassification

from raycomp.deployment.serving.network import MAX_BATCH
from raycomp.deployment.serving.policy import Speed
from raycomp.deployment.serving.requests import MAX_BODY_BYTES
from raycomp.deployment.serving.service import MAX_WAITING_TEXTS
from raycomp.deployment.serving.settings import ServeSettings
from raycomp.errors import UserError
from raycomp.runtime.serving import server
from raycomp.runtime.serving.family import FamilyMember
from raycomp.runtime.serving.server import _check_cpus, require_serve, serve_run, stop_signals
from tests.conftest import make_tokenizer

pytest.importorskip("starlette")


@pytest.fixture(scope="module")
def app(tuned_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A replica with one network, in torch."""
    from raycomp.runtime.serving.app import FamilyApp

    folder = tmp_path_factory.mktemp("export")
    model = BertForSequenceClassification.from_pretrained(tuned_model)
    model.config.id2label = {0: "bad", 1: "good"}
    model.save_pretrained(folder)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 40
    tokenizer.save_pretrained(folder)
    member = FamilyMember("half", "yoco-half", folder, "torch", 0.8, 100)
    return FamilyApp(
        [member], takes_pairs=False, is_regression=False, max_length=16, threads=1, p95_ms=50.0
    )


def send(app: Any, *requests: tuple[str, str, bytes]) -> list[tuple[int, Any]]:
    """Return status and body of each response; all requests belong to one event loop."""
    from starlette.requests import Request

    async def send_one(method: str, path: str, body: bytes) -> tuple[int, Any]:
        half = len(body) // 2
        parts = [body[:half], body[half:]]

        async def receive() -> dict[str, Any]:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
        response = await app(Request(scope, receive))
        return response.status_code, json.loads(response.body)

    async def send_all() -> list[tuple[int, Any]]:
        app._service = None
        responses = [await send_one(*request) for request in requests]
        assert (await app.close())[0] == 0
        return responses

    return asyncio.run(send_all())


def test_the_paths_of_a_replica(app: Any) -> None:
    body = json.dumps({"texts": ["a fine film", "the plot was dull"], "budget": "yoco-half"}).encode()
    (predicted, models, health) = send(
        app, ("POST", "/predict", body), ("GET", "/models", b""), ("GET", "/health", b"")
    )

    assert predicted[0] == 200
    assert predicted[1]["network"] == "half"
    assert [set(result["scores"]) for result in predicted[1]["results"]] == [{"bad", "good"}] * 2
    assert predicted[1]["results"][0]["label"] == "good"
    assert models[1]["models"][0]["name"] == "half"
    assert models[1]["models"][0]["single_ms"] > 0
    # Paths of the server are not told to clients.
    assert "/" not in models[1]["models"][0]["folder"]
    assert health == (200, {**health[1], "status": "ok", "network": "half", "answered_requests": 1})


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/", b"", 404),
        ("GET", "/predict", b"", 405),
        ("POST", "/health", b"", 405),
        ("POST", "/predict", b"no JSON", 400),
        ("POST", "/predict", b'{"text": "a", "budget": "teacher"}', 400),
        ("POST", "/predict", b" " * (MAX_BODY_BYTES + 2), 413),
    ],
)
def test_bad_requests_get_one_sentence(
    app: Any, method: str, path: str, body: bytes, status: int
) -> None:
    ((code, content),) = send(app, (method, path, body))
    assert code == status
    assert list(content) == ["error"]
    assert content["error"].endswith(".")


def test_a_failure_does_not_show_the_inside_of_the_server(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("/secret/path")

    monkeypatch.setattr(app, "_get_service", fail)
    from starlette.requests import Request

    scope = {"type": "http", "method": "GET", "path": "/health", "query_string": b"", "headers": []}
    response = asyncio.run(app(Request(scope)))
    assert response.status_code == 500
    assert b"secret" not in response.body


def test_an_interrupted_stop_of_a_replica_names_both_numbers(app: Any) -> None:
    async def check() -> tuple[int, int]:
        app._service = None
        numbers: tuple[int, int] = await app.abandon()
        return numbers

    assert asyncio.run(check()) == (0, 0)


def test_a_replica_whose_queue_has_failed_is_not_healthy(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(app.check_health())
    monkeypatch.setattr(app, "_service", SimpleNamespace(has_failed=True))
    with pytest.raises(RuntimeError, match="has stopped"):
        asyncio.run(app.check_health())


def test_a_target_that_no_network_keeps_is_named(app: Any) -> None:
    speeds = {"half": Speed(1.0, 4.0)}
    assert asyncio.run(app.list_notices()) == []
    assert app._describe_target(None, speeds) == app._describe_target(5.0, speeds) == []
    (notice,) = app._describe_target(4.9, speeds)
    assert notice.startswith("The target of 4.9 ms cannot be kept for the longest texts: half, the fast")


def test_the_address_is_that_of_the_node_that_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    head = {
        "Alive": True,
        "NodeID": "a",
        "NodeManagerAddress": "10.0.0.1",
        "Resources": {"node:__internal_head__": 1.0},
    }
    nodes = [{"Alive": True, "NodeID": "b", "Resources": {}}, head]

    def describe(node_id: str, host: str) -> str:
        context = SimpleNamespace(get_node_id=lambda: node_id)
        fake = SimpleNamespace(nodes=lambda: nodes, get_runtime_context=lambda: context)
        monkeypatch.setattr(server, "ray", fake)
        return server._describe_address(ServeSettings(host=host))

    assert describe("a", "127.0.0.1") == "http://127.0.0.1:8000"
    assert describe("a", "::1") == "http://[::1]:8000"
    assert describe("b", "0.0.0.0") == "0.0.0.0, port 8000, of the head node 10.0.0.1"


@pytest.mark.parametrize(
    ("replicas", "threads", "words"),
    [
        (2, 2, ""),
        # 7 CPUs, of which no node has 5.
        (
            1,
            5,
            "has CPUs for 0 replicas with 5 threads, and 1 are asked for. Its largest node has 4 CPUs",
        ),
        (4, 2, "has CPUs for 3 replicas with 2 threads"),
    ],
)
def test_replicas_that_no_node_can_carry_stop_the_server(
    replicas: int, threads: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [(4, True), (3, True), (64, False)]
    fake = [{"Alive": alive, "Resources": {"CPU": float(cpus)}} for cpus, alive in nodes]
    fake.append({"Alive": True, "Resources": {}})
    monkeypatch.setattr(server, "ray", SimpleNamespace(nodes=lambda: fake))

    settings = ServeSettings(replicas=replicas, threads=threads)
    if not words:
        _check_cpus(settings)
        return
    with pytest.raises(UserError, match=re.escape(words)):
        _check_cpus(settings)


def test_each_waiting_text_is_in_the_replica_and_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {}

    def deployment(app: Any, **given: Any) -> Any:
        options.update(given)
        return SimpleNamespace(bind=lambda *args, **kwargs: None)

    job = SimpleNamespace(task=SimpleNamespace(max_length=8))
    monkeypatch.setattr(server.ray, "serve", SimpleNamespace(deployment=deployment), raising=False)
    monkeypatch.setattr(server, "read_facts", lambda _: SimpleNamespace(pair=False, kind=""))
    monkeypatch.setattr(server, "read_json", lambda _: {})
    monkeypatch.setattr(server, "parse_stored", lambda _: job)

    server._make_application(tmp_path, [], ServeSettings())

    # One text per request: the replica must have room for one request more than may wait.
    assert options["max_ongoing_requests"] > MAX_WAITING_TEXTS + MAX_BATCH
    # -1 would be no limit.
    assert options["max_queued_requests"] > 0


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SERVE_PACKAGES", ("json", "no_such_package"))
    with pytest.raises(UserError, match=r"no_such_package.*raycomp\[serve\]"):
        require_serve()


def test_a_port_in_use_stops_the_server_before_models_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "require_serve", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            serve_run(tmp_path, ServeSettings(port=port), print)
        with pytest.raises(UserError, match=r"cannot listen on no\.such\.host"):
            serve_run(tmp_path, ServeSettings(host="no.such.host.invalid"), print)


def test_signals_stop_the_server_and_a_second_one_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_signals() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
