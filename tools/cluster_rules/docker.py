"""The Dockerfile, much as hadolint would read it, and what the other files here rely on in the image."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tools.cluster_rules.common import SECRET_NAME, Fault, image, settings, shell

APT = ("apt-get update", "--no-install-recommends", "rm -rf /var/lib/apt/lists/*")


def check_dockerfile(text: str) -> Iterator[Fault]:
    """Check every instruction, then the image as a whole."""
    steps = _instructions(text)
    arguments = dict(rest.split("=", 1) for word, rest in steps if word == "ARG" and "=" in rest)
    environment: dict[str, str] = {}
    for word, rest in steps:
        if word == "FROM":
            name = re.sub(r"\$\{?(\w+)\}?", lambda m: arguments.get(m[1], ""), rest.split(" ")[0])
            yield from image(name, "FROM", own=False)
        elif word in ("ENV", "ARG"):
            pairs = dict(re.findall(r"(\w+)=(\S+)", rest))
            environment |= pairs if word == "ENV" else {}
            yield from ((word, f"{key} in plain text") for key in pairs if SECRET_NAME.search(key))
        elif word == "RUN":
            yield from _run(rest)
        else:
            yield from _other(word, rest)
    users = [rest for word, rest in steps if word == "USER"]
    if not users or users[-1].split(":")[0] in ("0", "root"):
        yield "USER", "the last one must not be root"
    elif not re.fullmatch(r"\d+(:\d+)?", users[-1]):
        yield "USER", f"{users[-1]} must be a number: Kubernetes cannot hold a name against runAsNonRoot"
    if not any(word == "SHELL" and "pipefail" in rest for word, rest in steps):
        yield "SHELL", "must set pipefail"
    for key, value in (("RAY_AUTH_MODE", "token"), ("HOME", "/home/raycomp")):
        if environment.get(key) != value:
            yield "ENV", f"{key} must be {value}"
    yield from settings(environment, "ENV")


def _instructions(text: str) -> list[tuple[str, str]]:
    """Return (instruction, rest), continued lines joined and comments dropped."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", "", code).splitlines()
    return [
        (word.upper(), rest) for word, _, rest in (line.strip().partition(" ") for line in lines) if word
    ]


def _other(word: str, rest: str) -> Iterator[Fault]:
    if word == "ADD":
        yield "ADD", "use COPY"
    elif word == "ENTRYPOINT":
        yield "ENTRYPOINT", "must not be set: KubeRay and the launcher give their own command"
    elif word == "CMD" and not rest.startswith("["):
        yield "CMD", 'must be a list, such as ["bash"]'
    elif word == "WORKDIR" and not rest.startswith("/"):
        yield "WORKDIR", f"{rest} must be absolute"
    elif word == "COPY" and rest.split()[-2:-1] == ["."]:
        yield "COPY", "name what is copied: `.` takes all"


def _run(command: str) -> Iterator[Fault]:
    yield from shell(command, "RUN")
    if "apt-get install" in command:
        yield from (("RUN", f"apt-get install without {n}") for n in APT if n not in command)
    if re.search(r"\bsudo\b", command):
        yield "RUN", "sudo is not needed"


def check_dockerignore(text: str) -> Iterator[Fault]:
    """Check that only what is named reaches the builder."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    if not lines or lines[0] != "*":
        yield "", "must begin with `*`: runs, tokens and history stay out"
    yield from (("", f"{line} lets in too much") for line in lines if re.match(r"!(\.|runs|\*)", line))
