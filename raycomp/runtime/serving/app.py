"""The replica of a server: HTTP paths, and the networks in their runtimes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from starlette.requests import Request
from starlette.responses import JSONResponse

from raycomp.deployment.runtimes import (
    TokenForward,
    model_forward,
    open_session,
    session_forward,
)
from raycomp.deployment.serving.network import MAX_BATCH, ServedNetwork
from raycomp.deployment.serving.policy import NetworkPolicy, Speed
from raycomp.deployment.serving.requests import MAX_BODY_BYTES, TOO_LARGE, read_request
from raycomp.deployment.serving.service import UNAVAILABLE, FamilyService
from raycomp.errors import RequestError, UserError
from raycomp.methods.exported_models import load_export, load_export_tokenizer
from raycomp.runtime.serving.family import FILE_OF_RUNTIME, FamilyMember, choose_ladder, fit_member

PREDICT = "/predict"
METHODS = {PREDICT: "POST", "/health": "GET", "/models": "GET"}
"""Paths of the server, and the HTTP method of each."""

SERVER_ERROR = 500


class FamilyApp:
    """One replica: it has all networks of the family, and a queue of its own."""

    def __init__(
        self,
        members: Sequence[FamilyMember],
        *,
        takes_pairs: bool,
        is_regression: bool,
        max_length: int,
        threads: int,
        p95_ms: float | None,
    ) -> None:
        """Load the networks, and time each of them.

        Args:
            members: The networks.
            takes_pairs: Whether a row of the task has two texts.
            is_regression: Whether outputs are numbers instead of classes.
            max_length: Largest number of tokens of a row.
            threads: Threads of this process.
            p95_ms: Largest 95th percentile of the answer times.
        """
        torch.set_num_threads(threads)
        self._takes_pairs = takes_pairs
        members, self._notices = _fit_members(members)
        self._networks = [
            load_network(member, threads, max_length, is_regression=is_regression) for member in members
        ]
        # Measured here and not read from a certificate: this node may be slower, or share its CPU.
        speeds = {network.name: network.measure_speed() for network in self._networks}
        batch_ms = [speeds[member.name].batch_ms(MAX_BATCH) for member in members]
        self._ladder = [member.name for member in choose_ladder(members, batch_ms)]
        self._policy = NetworkPolicy([speeds[name] for name in self._ladder], p95_ms, MAX_BATCH)
        self._notices += self._describe_target(p95_ms, speeds)
        self._names = {member.full_name: member.name for member in members}
        self._names |= {member.name: member.name for member in members}
        self._models = [
            {
                **network.facts,
                "single_ms": round(speeds[network.name].batch_ms(1), 3),
                "batch_ms": round(speeds[network.name].batch_ms(MAX_BATCH), 3),
                "chosen_by_policy": network.name in self._ladder,
            }
            for network in self._networks
        ]
        self._service: FamilyService | None = None

    def _describe_target(self, p95_ms: float | None, speeds: Mapping[str, Speed]) -> list[str]:
        """Return a sentence where not even the fastest network keeps the target; none otherwise."""
        fastest = self._ladder[-1]
        single_ms = speeds[fastest].batch_ms(1)
        if p95_ms is None or single_ms <= p95_ms:
            return []
        return [
            f"The target of {p95_ms:g} ms cannot be kept for the longest texts: {fastest}, the fastest "
            f"network, takes {single_ms:.3g} ms for one of them. Choose a larger --p95-ms, or serve a "
            "smaller model."
        ]

    async def __call__(self, request: Request) -> JSONResponse:
        """Return the response to a request. Bad input gets a status from 400 and one sentence."""
        try:
            return await self._respond(request)
        except RequestError as error:
            return JSONResponse({"error": error.message}, error.status)
        # The cause goes to the log: a client must not see paths of the server.
        except Exception:
            logging.getLogger("ray.serve").exception("A request failed")
            message = "The server failed to answer; its log has the cause."
            return JSONResponse({"error": message}, SERVER_ERROR)

    async def check_health(self) -> None:
        """Tell Ray Serve whether this replica works. It replaces a replica that raises an error here.

        Raises:
            RuntimeError: The queue has stopped.
        """
        if self._service is not None and self._service.has_failed:
            raise RuntimeError("The queue of this replica has stopped.")

    async def list_notices(self) -> list[str]:
        """Return sentences about networks that run otherwise than the user asked for."""
        return self._notices

    async def close(self) -> tuple[int, int]:
        """Refuse new requests, and return how many are without an answer and how many have one."""
        service = self._get_service()
        service.close()
        if not service.num_unanswered:
            await service.drain()
        return service.num_unanswered, service.num_answered

    async def abandon(self) -> tuple[int, int]:
        """Refuse new requests and those that wait.

        Returns:
            How many requests waited, and how many were answered in the time of the replica.
        """
        service = self._get_service()
        num_refused = service.abandon()
        return num_refused, await service.drain()

    async def _respond(self, request: Request) -> JSONResponse:
        path = request.url.path
        if path not in METHODS:
            raise RequestError(404, f"The path is unknown; the paths are {', '.join(METHODS)}.")
        if request.method != METHODS[path]:
            raise RequestError(405, f"Send {METHODS[path]} to {path}.")

        service = self._get_service()
        if path == "/models":
            return JSONResponse({"models": self._models})
        if path == "/health":
            state = service.state()
            return JSONResponse(state, 200 if state["status"] == "ok" else UNAVAILABLE)

        body = await _read_body(request)
        text_request = read_request(body, self._names, takes_pairs=self._takes_pairs)
        return JSONResponse(await service.answer(text_request))

    def _get_service(self) -> FamilyService:
        """Return the queue. It is made by the first request, because it needs the running event loop."""
        if self._service is None:
            self._service = FamilyService(self._networks, self._policy, self._ladder, self._names)
        return self._service


async def _read_body(request: Request) -> bytes:
    """Return the body of a request, without reading more than is allowed."""
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise RequestError(TOO_LARGE, f"The body has more than {MAX_BODY_BYTES:,} bytes.")
        parts.append(part)
    return b"".join(parts)


def _fit_members(members: Sequence[FamilyMember]) -> tuple[list[FamilyMember], list[str]]:
    """Return the members with files that compute correctly on this node, and notices for the user.

    Raises:
        UserError: This node cannot read a folder.
    """
    for member in members:
        if not (member.folder / "config.json").exists():
            raise UserError(
                f"This node cannot read {member.folder}. Put the run directory on storage that all nodes "
                "of the cluster share, or serve on one machine."
            )
    fitted = [fit_member(member) for member in members]
    return [member for member, _ in fitted], [notice for _, notice in fitted if notice]


def load_network(
    member: FamilyMember, threads: int, max_length: int, *, is_regression: bool
) -> ServedNetwork:
    """Return a network in its runtime. Code in its folder is not executed.

    Args:
        member: The network.
        threads: Threads of a forward pass.
        max_length: Largest number of tokens of a row.
        is_regression: Whether outputs are numbers instead of classes.
    """
    config = json.loads((member.folder / "config.json").read_text(encoding="utf-8"))
    labels = [str(config["id2label"][str(i)]) for i in range(len(config["id2label"]))]
    tokenizer = load_export_tokenizer(member.folder)
    return ServedNetwork(
        name=member.name,
        forward=_open_file(member.folder, member.runtime, threads),
        tokenizer=tokenizer,
        labels=() if is_regression else tuple(labels),
        max_tokens=min(max_length, int(tokenizer.model_max_length)),
        vocab_size=int(config["vocab_size"]),
        facts={**asdict(member), "folder": member.folder.name},
    )


def _open_file(folder: Path, runtime: str, threads: int) -> TokenForward:
    if runtime == "torch":
        return model_forward(load_export(folder))
    return session_forward(open_session(folder / FILE_OF_RUNTIME[runtime], threads))
