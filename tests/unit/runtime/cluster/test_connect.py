"""Settings that Ray reads once, and the messages where Ray does not start."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private import ray_constants

from raycomp.errors import UserError
from raycomp.runtime.cluster import connect as module
from raycomp.runtime.cluster.connect import OWN_CLUSTER, connect, is_own_cluster, ray, start_local_cluster


def test_workers_of_a_driver_below_uv_run_use_its_interpreter() -> None:
    """With Ray's default, they would start in a copy of the working directory."""
    assert ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV is False


@pytest.mark.parametrize(
    ("error", "reasons"),
    [
        (
            OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /x"),
            ["/a/long/one is too long", "Set RAY_TMPDIR"],
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/tmp/ray/session_1"),
            ["cannot write /tmp/ray/session_1 (Permission denied)", "another user", "Set RAY_TMPDIR"],
        ),
        (OSError(errno.EROFS, "Read-only file system"), ["cannot write /a/long/one", "Set RAY_TMPDIR"]),
        (Exception("The current node timed out during startup."), ["timed out", "less busy"]),
    ],
)
def test_a_ray_that_does_not_start_says_why(
    error: Exception, reasons: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/a/long/one")
    monkeypatch.setattr(module, "start_local_cluster", fail)
    with pytest.raises(UserError) as raised:
        connect()
    for reason in reasons:
        assert reason in str(raised.value)


def test_a_local_cluster_has_the_cpus_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def init(*_: Any, **options: Any) -> SimpleNamespace:
        calls.append({**options, OWN_CLUSTER: os.environ.get(OWN_CLUSTER)})
        return SimpleNamespace(address_info={"gcs_address": "1.2.3.4:5"})

    monkeypatch.setattr(module, "_own_clusters", set())
    monkeypatch.setattr(module, "usable_cpus", lambda: 3)
    monkeypatch.setattr(ray, "init", init)
    start_local_cluster()
    start_local_cluster(num_cpus=7)
    assert [call["num_cpus"] for call in calls] == [3, 7]
    # The processes of the cluster know it from their environment, this one by the cluster's address.
    assert [call[OWN_CLUSTER] for call in calls] == ["1", "1"]


@pytest.mark.parametrize(("address", "is_own"), [("1.2.3.4:5", True), ("1.2.3.4:6", False)])
def test_a_cluster_that_another_process_started_is_not_ours(
    address: str, is_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(OWN_CLUSTER, raising=False)
    monkeypatch.setattr(module, "_own_clusters", {"1.2.3.4:5"})
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address=address))
    assert is_own_cluster() is is_own

    monkeypatch.setenv(OWN_CLUSTER, "1")
    assert is_own_cluster()
