"""Connection to the job API of a Ray cluster's dashboard, and its errors in the user's words."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raycomp.errors import UserError, as_sentence, last_line

DEFAULT_ADDRESS = "http://127.0.0.1:8265"

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts to which the token of this machine's user may be sent without being asked for it."""


def connect_to_dashboard(address: str | None) -> Any:
    """Return a client of a cluster's job API.

    With RAY_AUTH_MODE=token Ray sends the token from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or
    ~/.ray/auth_token. Without this variable the same token is sent to a dashboard on this machine (or a
    forwarded port) that asks for one.

    Args:
        address: URL of the dashboard. If absent: RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265.

    Raises:
        UserError: The address is not a URL, or nothing answers there.
    """
    url = _dashboard_url(address)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # These loggers print what they upload.
    for module in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk",
                   "_private.runtime_env.packaging"):  # fmt: skip
        logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)

    # Ray would otherwise prefer the value that it finds in this variable.
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    with explained_errors(url):
        try:
            return JobSubmissionClient(url)
        except AuthenticationError:
            token = _read_token()
            is_chosen = "RAY_AUTH_MODE" in os.environ

            if is_chosen or not token or urlsplit(url).hostname not in LOOPBACK:
                raise
            return JobSubmissionClient(url, headers={"Authorization": f"Bearer {token}"})


@contextmanager
def explained_errors(address: str | None) -> Iterator[None]:
    """Turn the errors of Ray's client into UserError."""
    import requests
    from ray.exceptions import AuthenticationError

    url = _dashboard_url(address)
    try:
        yield
    except UserError:
        raise
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise UserError(
            f"No Ray dashboard answers at {url} ({_last_text(error)}). Start one with `ray start "
            "--head`, forward its port 8265, or give another --address."
        ) from None
    except AuthenticationError:
        raise UserError(_token_message(url)) from None
    except RuntimeError as error:
        raise UserError(
            f"The cluster at {url} refused the request: {as_sentence(_last_text(error))} `raycomp status "
            f"--address {url}` lists its jobs. Check the job's id, and the version of Ray on both sides."
        ) from None


def _dashboard_url(address: str | None) -> str:
    url = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise UserError(
            f"--address {url!r} is not a dashboard's URL. It must be the URL of a cluster's dashboard, "
            f"such as {DEFAULT_ADDRESS}."
        )
    return url


def _token_message(url: str) -> str:
    """Return the message for a rejected or missing token; it names what is not set yet."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token" and _read_token():
        return (
            f"{url} asks for an authentication token. This user has one, but Ray does not send it to "
            "another machine without being told. Set RAY_AUTH_MODE=token if you trust this address."
        )
    return (
        f"{url} rejected the authentication token, because it is missing or wrong. Set "
        "RAY_AUTH_MODE=token, and copy the cluster's token to ~/.ray/auth_token or set "
        "RAY_AUTH_TOKEN_PATH to its file."
    )


def _read_token() -> str:
    """Return the token where Ray would find it; empty if it is missing."""
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if token:
        return token.strip()
    place = os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / ".ray" / "auth_token")
    try:
        return Path(place).expanduser().read_text().strip()
    except (OSError, ValueError):
        return ""


def _last_text(error: BaseException) -> str:
    return last_line(error)[:300]
