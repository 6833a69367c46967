"""The life cycle of `raycomp serve`: start Ray Serve, wait for a signal, answer what waits, stop."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from raycomp.config.loader import parse_stored
from raycomp.deployment.serving.service import MAX_WAITING_TEXTS
from raycomp.deployment.serving.settings import ServeSettings
from raycomp.errors import UserError, first_line, last_line
from raycomp.methods.facts import read_facts
from raycomp.runtime.cluster.connect import connect, ray
from raycomp.runtime.serving.application import (
    ServerOutcome,
    close_application,
    say_notices,
    start_in_thread,
)
from raycomp.runtime.serving.family import FamilyMember, prepare_family
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout

APPLICATION = "raycomp"

SERVE_PACKAGES = ("fastapi", "grpc_reflection", "starlette", "uvicorn", "watchfiles")
"""Packages of ray[serve] that Ray Serve cannot do without."""

MAX_ONGOING = MAX_WAITING_TEXTS + 512
"""Requests that one replica has at a time. Each text that waits must do so in the replica, where the
policy sees it, and a request beyond must reach the replica to be refused."""

MAX_QUEUED = MAX_ONGOING
"""Requests that wait in Ray Serve until a replica takes them; others get status 503. Without a limit,
they would wait where neither the policy nor `time_ms` sees them."""

HEAD = "node:__internal_head__"
"""Resource that Ray gives the head node."""

LAST_ANSWER_SECONDS = 0.5
"""Time from the last answer of a replica until the proxy stops."""

GRACE_SECONDS = 60.0
"""Time that Ray Serve gives a replica to end: its requests are answered before."""


def require_serve() -> None:
    """Check that the packages of Ray Serve are installed.

    Raises:
        UserError: One is missing.
    """
    missing = [name for name in SERVE_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"raycomp serve needs the package {missing[0]}, which is not installed. Run pip install "
            "'raycomp[serve]'."
        )


def serve_run(run_dir: Path, settings: ServeSettings, say: Callable[[str], None]) -> ServerOutcome:
    """Serve the models of a run until Ctrl-C or SIGTERM, then answer the requests that wait.

    Args:
        run_dir: The run directory.
        settings: What to serve, and where.
        say: Function that shows one line.

    Returns:
        The number of answered requests. A second Ctrl-C refuses those that still wait.

    Raises:
        UserError: A package or a model is missing, the port is in use, or the cluster cannot be used.
    """
    require_serve()
    # A cluster's server listens on its head node, where this machine's ports say nothing.
    if not os.environ.get("RAY_ADDRESS"):
        _check_port_is_free(settings.host, settings.port)
    run_dir = run_dir.resolve()
    members = prepare_family(run_dir, settings, say)

    has_connected = connect()
    owns_serve = False
    try:
        _check_cpus(settings)
        _check_serve_is_new()
        owns_serve = True
        # Ray has its own handlers of signals, which end this process before the answers are sent.
        with stop_signals() as stop:
            return _serve_until(stop, run_dir, members, settings, say)
    finally:
        with _silence():
            if owns_serve:
                _stop_serve()
            if has_connected:
                ray.shutdown()


def _serve_until(
    stop: threading.Event,
    run_dir: Path,
    members: list[FamilyMember],
    settings: ServeSettings,
    say: Callable[[str], None],
) -> ServerOutcome:
    """Start the application on the connected cluster, wait for the event, and stop it."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)

    def start() -> Any:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.host, "port": settings.port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        return serve.run(
            _make_application(run_dir, members, settings), name=APPLICATION, route_prefix="/"
        )

    try:
        handle = start_in_thread(start, stop, lambda: _describe_wait(settings), say)
    # TimeoutError: the proxy did not start in a minute.
    except (RuntimeError, TimeoutError) as error:
        raise UserError(
            f"Ray Serve did not start the models of {run_dir.name}: {last_line(error)}"
        ) from None
    if handle is None:
        return ServerOutcome(0)

    names = ", ".join(member.name for member in members)
    say(f"Serving {names} on {_describe_address(settings)}. Ctrl-C stops the server.")
    has_notices = True
    while not stop.wait(1.0):
        has_notices = has_notices and not say_notices(handle, say)

    # A client that comes from now on learns from the replicas that the server is shutting down.
    outcome = close_application(handle, say)
    # The last answers are on their way through the proxy.
    time.sleep(LAST_ANSWER_SECONDS)
    return outcome


def _describe_address(settings: ServeSettings) -> str:
    """Return where the server listens. On a cluster, this is the head node."""
    heads = [node for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]]
    if heads and heads[0]["NodeID"] != ray.get_runtime_context().get_node_id():
        node = heads[0]["NodeManagerAddress"]
        return f"{settings.host}, port {settings.port}, of the head node {node}"
    host = settings.host
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{settings.port}"


def _describe_wait(settings: ServeSettings) -> str:
    """Return a sentence on the CPUs that a server needs before it starts."""
    free = ray.available_resources().get("CPU", 0)
    return (
        f"Its replicas ({settings.replicas}) need {settings.threads} CPUs each, and {free:g} CPUs of the "
        "cluster are free. Ctrl-C stops the server."
    )


def _stop_serve() -> None:
    """Stop replicas and proxy."""
    from ray import serve

    serve.shutdown()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Ray's notices about actors that Ray Serve has stopped from the user's screen."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield


def _make_application(run_dir: Path, members: list[FamilyMember], settings: ServeSettings) -> Any:
    """Return the Serve application of a family."""
    from ray import serve

    from raycomp.runtime.serving.app import FamilyApp

    layout = RunLayout(run_dir)
    facts = read_facts(layout.facts)
    job = parse_stored(read_json(layout.job))
    deployment = serve.deployment(
        FamilyApp,
        name="family",
        num_replicas=settings.replicas,
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": settings.threads},
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=GRACE_SECONDS,
        # A line per request would cost more than a small network.
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    return deployment.bind(
        members,
        takes_pairs=facts.pair,
        is_regression=facts.kind == "regression",
        max_length=job.task.max_length,
        threads=settings.threads,
        p95_ms=settings.p95_ms,
    )


def _check_port_is_free(host: str, port: int) -> None:
    """Check that this machine can listen at an address, before minutes are spent on the models.

    Raises:
        UserError: It cannot.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        raise UserError(
            f"The server cannot listen on {host}:{port} ({first_line(error)}). Choose another address "
            "with --host and --port."
        ) from None


def _check_cpus(settings: ServeSettings) -> None:
    """Check that the nodes have the CPUs of all replicas: Ray Serve would wait for them for ever.

    Raises:
        UserError: They do not.
    """
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    # A replica is one process: it cannot use CPUs of two nodes.
    num_fitting = sum(count // settings.threads for count in cpus)
    if settings.replicas > num_fitting:
        raise UserError(
            f"The cluster has CPUs for {num_fitting} replicas with {settings.threads} threads, and "
            f"{settings.replicas} are asked for. Its largest node has {max(cpus, default=0)} CPUs. "
            "Choose smaller numbers with --replicas and --threads."
        )


def _check_serve_is_new() -> None:
    """Check that the cluster does not run Ray Serve: its HTTP address cannot be changed.

    Raises:
        UserError: It does.
    """
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return
    raise UserError(
        "Ray Serve already runs on this cluster, and its HTTP address cannot be changed. Stop it with "
        "`serve shutdown`, or unset RAY_ADDRESS to serve on this machine."
    )


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set. A second Ctrl-C interrupts at once."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request_stop(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        for number in before:
            signal.signal(number, request_stop)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
