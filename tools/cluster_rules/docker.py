"""Rules for the Dockerfile: those of hadolint, and what other files of cluster/ expect of the image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from tools.cluster_rules.common import (
    SECRET_NAME,
    Fault,
    check_image,
    check_ray_settings,
    check_shell,
)

APT_PARTS = ("apt-get update", "--no-install-recommends", "rm -rf /var/lib/apt/lists/*")


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, such as "RUN" and its command."""

    word: str
    arguments: str


def check_dockerfile(text: str) -> Iterator[Fault]:
    """Check every instruction, then the image as a whole."""
    instructions = _parse(text)
    for instruction in instructions:
        yield from _check_instruction(instruction, _build_arguments(instructions))
    yield from _check_user(instructions)

    if not any(word == "SHELL" and "pipefail" in arguments for word, arguments in instructions):
        yield Fault("SHELL", "must set pipefail")

    environment: dict[str, str] = {}
    for word, arguments in instructions:
        if word == "ENV":
            environment |= _parse_pairs(arguments)
    for key, value in (("RAY_AUTH_MODE", "token"), ("HOME", "/home/raycomp")):
        if environment.get(key) != value:
            yield Fault("ENV", f"{key} must be {value}")
    yield from check_ray_settings(environment, "ENV")


def _parse(text: str) -> list[Instruction]:
    """Return the instructions; continued lines are joined, and comments are dropped."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    instructions = []
    for line in re.sub(r"\\\n\s*", "", code).splitlines():
        word, _, arguments = line.strip().partition(" ")
        if word:
            instructions.append(Instruction(word.upper(), arguments))
    return instructions


def _build_arguments(instructions: list[Instruction]) -> dict[str, str]:
    """Return the default of each ARG."""
    return dict(
        arguments.split("=", 1) for word, arguments in instructions if word == "ARG" and "=" in arguments
    )


def _parse_pairs(arguments: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", arguments))


def _check_instruction(instruction: Instruction, build_arguments: dict[str, str]) -> Iterator[Fault]:
    word, arguments = instruction
    if word == "FROM":
        name = re.sub(
            r"\$\{?(\w+)\}?",
            lambda match: build_arguments.get(match[1], ""),
            arguments.split(" ")[0],
        )
        yield from check_image(name, "FROM", is_ours=False)
    elif word in ("ENV", "ARG"):
        for key in _parse_pairs(arguments):
            if SECRET_NAME.search(key):
                yield Fault(word, f"{key} in plain text")
    elif word == "RUN":
        yield from _check_run(arguments)
    elif word == "ADD":
        yield Fault("ADD", "use COPY")
    elif word == "ENTRYPOINT":
        yield Fault("ENTRYPOINT", "must not be set: KubeRay and the launcher give their own command")
    elif word == "CMD" and not arguments.startswith("["):
        yield Fault("CMD", 'must be a list, such as ["bash"]')
    elif word == "WORKDIR" and not arguments.startswith("/"):
        yield Fault("WORKDIR", f"{arguments} must be absolute")
    elif word == "COPY" and arguments.split()[-2:-1] == ["."]:
        yield Fault("COPY", "name what is copied: `.` copies everything")


def _check_run(command: str) -> Iterator[Fault]:
    yield from check_shell(command, "RUN")
    if "apt-get install" in command:
        for part in APT_PARTS:
            if part not in command:
                yield Fault("RUN", f"apt-get install without {part}")
    if re.search(r"\bsudo\b", command):
        yield Fault("RUN", "sudo is not needed")


def _check_user(instructions: list[Instruction]) -> Iterator[Fault]:
    """Check that the image runs as a user with a number, and not as root."""
    users = [arguments for word, arguments in instructions if word == "USER"]
    if not users or users[-1].split(":")[0] in ("0", "root"):
        yield Fault("USER", "the last one must not be root")
    elif not re.fullmatch(r"\d+(:\d+)?", users[-1]):
        yield Fault(
            "USER", f"{users[-1]} must be a number: Kubernetes cannot compare a name with runAsNonRoot"
        )


def check_dockerignore(text: str) -> Iterator[Fault]:
    """Check that only named files are sent to the builder."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    if not lines or lines[0] != "*":
        yield Fault("", "must begin with `*`: runs, tokens and history stay out")
    for line in lines:
        if re.match(r"!(\.|runs|\*)", line):
            yield Fault("", f"{line} lets in too much")
