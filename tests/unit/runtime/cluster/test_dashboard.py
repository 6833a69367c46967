"""The token of a cluster's dashboard: sent where it is safe, and named where it is not."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycomp.errors import UserError
from raycomp.runtime.cluster import dashboard as module
from raycomp.runtime.cluster.dashboard import connect_to_dashboard

TOKEN = "canary-token-77"


class _Dashboard(http.server.BaseHTTPRequestHandler):
    """Answers with its version to requests that have the token."""

    seen: list[str | None] = []  # noqa: RUF012 - reset for each test

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        self.seen.append(given)
        self.send_response(200 if given == f"Bearer {TOKEN}" else 401)
        self.end_headers()
        self.wfile.write(b'{"ray_version": "2.60.0"}' if given else b"Missing authentication token")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    _Dashboard.seen = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Dashboard)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def write_token(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(f"{TOKEN}\n")


def test_the_token_file_that_ray_made_is_enough_on_this_machine(address: str, tmp_path: Path) -> None:
    write_token(tmp_path)
    connect_to_dashboard(address)
    assert _Dashboard.seen[0] is None, "a dashboard that asks for no token gets none"
    assert set(_Dashboard.seen[1:]) == {f"Bearer {TOKEN}"}


def test_another_machine_gets_the_token_only_by_one_variable(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_token(tmp_path)
    monkeypatch.setattr(module, "LOOPBACK", ())
    with pytest.raises(UserError, match="Set RAY_AUTH_MODE=token if you trust this address") as raised:
        connect_to_dashboard(address)
    assert TOKEN not in str(raised.value)
    assert _Dashboard.seen == [None]


def test_a_user_without_a_token_reads_where_it_belongs(address: str) -> None:
    with pytest.raises(UserError, match="Set RAY_AUTH_MODE=token, and copy the cluster's token"):
        connect_to_dashboard(address)


def test_a_mode_that_the_user_chose_is_kept(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_token(tmp_path)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(UserError, match="Set RAY_AUTH_MODE=token"):
        connect_to_dashboard(address)
    assert _Dashboard.seen == [None]


def test_a_refused_request_names_what_to_check(address: str) -> None:
    with pytest.raises(UserError) as caught, module.explained_errors(address):
        raise RuntimeError("Request failed with status code 404: Job a1 does not exist.")
    assert str(caught.value) == (
        f"The cluster at {address} refused the request: Request failed with status code 404: Job a1 does "
        f"not exist. `raycomp status --address {address}` lists its jobs. Check the job's id, and the "
        "version of Ray on both sides."
    )
