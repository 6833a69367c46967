"""A head node that `ray start` has started on this machine, with token authentication."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Head:
    """A running head node.

    Attributes:
        dashboard: URL of its dashboard.
        token: File with its authentication token.
    """

    dashboard: str
    token: Path

    def cli(
        self, *args: str, token: bool = True, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line against this head node.

        Args:
            args: Arguments of the command.
            token: Whether the command has the token.
            timeout: Seconds until the command is killed.
        """
        environment = environment_without_ray()
        environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_API_SERVER_ADDRESS": self.dashboard}
        if token:
            environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}
        else:
            environment["RAY_AUTH_MODE"] = "disabled"

        return subprocess.run(
            [sys.executable, "-m", "raycomp.cli", *args],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=timeout,
        )


def environment_without_ray() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}


def free_ports(count: int) -> list[int]:
    """Return different ports on which nothing listens."""
    # All sockets are open at the same time, so the ports differ.
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [int(opened.getsockname()[1]) for opened in sockets]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    log = folder / "log"
    token = folder / "token"
    token.write_text("3f" * 32)
    token.chmod(0o600)

    environment = environment_without_ray()
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": "/tmp",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
        "OMP_NUM_THREADS": "1",
        # As in an activated virtual environment.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    port, dashboard_port, client_port, metrics_port, agent_port, agent_grpc_port = free_ports(6)
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        f"--port={port}",
        "--num-cpus=2",
        f"--object-store-memory={200 * 2**20}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={agent_port}",
        f"--dashboard-agent-grpc-port={agent_grpc_port}",
        f"--ray-client-server-port={client_port}",
        f"--metrics-export-port={metrics_port}",
        "--disable-usage-stats",
    ]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, start_new_session=True
        )

    node = Head(f"http://127.0.0.1:{dashboard_port}", token)
    try:
        deadline = time.monotonic() + 90
        while node.cli("status").returncode != 0:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, node.cli("status").stderr
            time.sleep(0.5)
        yield node
    finally:
        # `ray start --block` and its GCS survive SIGTERM by more than half a minute.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
