"""The exceptions of raycomp, and helpers that make text from outside fit for their messages.

Only UserError and RequestError are meant for users. The others pass between the parts and processes of a
training.
"""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]{0,20}://)([^\s/@?]{1,1000})@")
_SECRET_OPTION = re.compile(
    r"([?&;][^=&;\s]{0,50}?(?:key|secret|token|passw|credential|signature|\bsig|\bsas)[^=&;\s]{0,50}=)"
    r"[^&;\s'\"]+",
    re.IGNORECASE,
)


class UserError(Exception):
    """An error that the user can correct. Its message states the event, the reason and the remedy.

    The command line prints the message without a stack trace and ends with exit code 2. The message hides
    passwords and keys of URLs.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class PermanentError(UserError):
    """An error that the same job gives again on the same machines, so another attempt is useless."""


class ProcessLostError(UserError):
    """Processes of the cluster ended before their work was done; another attempt can succeed."""


class DivergedError(RuntimeError):
    """The loss of a training step is not finite."""


class AllReduceError(RuntimeError):
    """An all-reduce of a training step failed: a worker is gone, or it does not respond."""


class MissingRankError(RuntimeError):
    """An AllReduceError after the training task has found out which ranks are missing."""


class BarrierTimeoutError(RuntimeError):
    """A rank did not reach the end of a block of steps in time."""


class StaleAttemptError(RuntimeError):
    """The caller belongs to an attempt at a training that another attempt has replaced; it must end."""


class AttemptReplacedError(RuntimeError):
    """The caller writes files for an attempt at a training that another attempt has replaced."""


class RankFailedError(RuntimeError):
    """A rank of a training failed. It carries text only, so it can be sent to any process.

    Attributes:
        kind: Name of the class of the rank's error.
        message: Message of the rank's error.
        trace: Stack trace of the rank.
    """

    def __init__(self, kind: str, message: str, trace: str) -> None:
        # Exceptions are pickled with these arguments.
        super().__init__(kind, message, trace)
        self.kind = kind
        self.message = message
        self.trace = trace

    def __str__(self) -> str:
        return self.message


class TrainingEndedError(RuntimeError):
    """A training must not be started again; the message is the user's."""


class EvaluatorLostError(RuntimeError):
    """An evaluator died, or it never started."""


class RequestError(Exception):
    """A request to a server that is refused.

    Attributes:
        status: Status of HTTP, from 400.
        message: One sentence for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


class QuoteError(ValueError):
    """A quote of a CSV file is not closed, or a field with quotes contains other rows."""


class LeaseLostError(RuntimeError):
    """Another process has taken over the lease of a run.

    Args:
        owner: The other process, as messages name it.
    """

    def __init__(self, owner: str) -> None:
        super().__init__(f"The lease was taken over by {owner}.")
        self.owner = owner


def redacted(text: str) -> str:
    """Return a text without the passwords and keys of the URLs in it."""

    def hide_user(match: re.Match[str]) -> str:
        scheme, user = match[1], match[2]
        # A name without a password is not a secret, except for the services whose user is a key.
        is_secret = ":" in user or (
            scheme.lower().startswith(("s3", "gs", "gcs")) and user != "anonymous"
        )
        return f"{scheme}***@" if is_secret else match[0]

    return _SECRET_OPTION.sub(r"\1***", _USER_INFO.sub(hide_user, text))


def shown(text: str, limit: int = 200) -> str:
    """Return text from outside so that a message can contain it: on one line, no control characters.

    Args:
        text: Any text.
        limit: Largest number of characters. Longer text is cut.
    """
    cut = text
    if len(text) > limit:
        cut = f"{text[:limit]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, or the error's name if the message is empty."""
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and lines[0].rstrip().endswith(":"):
        # The cause is in the next line.
        return shown(f"{lines[0].rstrip()} {lines[1].strip()}", 300)
    return shown(lines[0] if lines else repr(error), 300)


def as_sentence(text: str) -> str:
    """Return a cause with one full stop at its end. Another sentence can then follow it."""
    return f"{text.rstrip().rstrip('.')}."


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message: the cause, if the message is a stack trace."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else repr(error)
