"""Rules for all kinds of files: schemas, YAML, images, shell commands, secrets."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema  # type: ignore[import-untyped]
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]

# Directory of the runs on every node.
RUNS = "/mnt/runs"
RAY_SETTINGS_FILE = "raycomp/runtime/cluster/connect.py"

SECRET_NAME = re.compile(r"(^|_)(TOKEN|PASSWORD|SECRET|KEY|CREDENTIALS?)$")
_SECRET_VALUE = re.compile(
    r"hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|-----BEGIN"
    r"|(?<!sha256:)\b[0-9a-f]{64}\b"
)
_DOWNLOAD_INTO_SHELL = re.compile(r"\b(curl|wget)\b[^|;&]*\|\s*(sudo\s+)?(ba|z)?sh\b")


class Fault(NamedTuple):
    """A rule that a file breaks.

    Attributes:
        place: Key or line in the file; empty for the file as a whole.
        message: What is wrong.
    """

    place: str
    message: str


def find_secrets(text: str) -> Iterator[Fault]:
    """Yield a fault for each line that contains something like a token or a key."""
    for number, line in enumerate(text.splitlines(), 1):
        if _SECRET_VALUE.search(line):
            yield Fault(f"line {number}", "a secret in plain text")


def check_schema(value: Any, schema: dict[str, Any]) -> Iterator[Fault]:
    """Validate a value against a JSON Schema."""
    validator = jsonschema.validators.validator_for(schema)(schema)
    for error in sorted(validator.iter_errors(value), key=lambda error: str(error.json_path)):
        place = error.json_path.removeprefix("$").removeprefix(".")
        yield Fault(place, error.message)


def check_image(name: str, place: str, *, is_ours: bool = True) -> Iterator[Fault]:
    """Check that an image has an explicit tag.

    Args:
        name: Name of the image.
        place: Key of the image.
        is_ours: Whether the image contains raycomp; its tag must then begin with raycomp's version.
    """
    repository, _, tag = name.partition("@")[0].rpartition("/")[2].partition(":")
    version = project_version()
    if not repository or not tag or tag == "latest":
        yield Fault(place, f"{name or 'no image'}: give an explicit tag, not latest")
    elif is_ours and not tag.startswith(f"{version}-"):
        yield Fault(place, f"{name}: the tag must begin with raycomp's version, {version}")


def check_shell(command: str, place: str) -> Iterator[Fault]:
    """Check a shell command: every pip package is pinned, and no download is piped into a shell."""
    if _DOWNLOAD_INTO_SHELL.search(command):
        yield Fault(place, "pipes a download into a shell")

    for part in re.split(r"&&|\|\||;", command):
        _, separator, arguments = part.partition("pip install ")
        if not separator:
            continue
        words = [word.strip("\"'") for word in arguments.split()]
        if "--no-cache-dir" not in words:
            yield Fault(place, "pip install without --no-cache-dir")
        if "--constraint" in words:
            continue
        for word in words:
            if not word.startswith("-") and "==" not in word:
                yield Fault(place, f"pip install {word} is not pinned")


def check_ray_settings(environment: dict[str, str], place: str) -> Iterator[Fault]:
    """Compare an environment with `RAY_SETTINGS` of raycomp."""
    for key, value in _ray_settings().items():
        if environment.get(key) != value:
            yield Fault(place, f"{key} must be {value}, as in {RAY_SETTINGS_FILE}")


class Loader(yaml.SafeLoader):
    """YAML loader that refuses a key that is given twice, as kubectl does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} is given twice {node.start_mark}")
        return dict(super().construct_mapping(node, deep))


@functools.cache
def _ray_settings() -> dict[str, str]:
    """Return `RAY_SETTINGS`, read from the source: importing the module would import Ray."""
    tree = ast.parse((ROOT / RAY_SETTINGS_FILE).read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RAY_SETTINGS":
            return dict(ast.literal_eval(node.value))
    raise LookupError(f"{RAY_SETTINGS_FILE} has no RAY_SETTINGS")


@functools.cache
def pinned_version(package: str) -> str:
    """Return the version of a package in constraints.txt; empty if it is not there."""
    constraints = (ROOT / "constraints.txt").read_text()
    match = re.search(rf"^{package}==(\S+)$", constraints, re.MULTILINE)
    return match[1] if match else ""


@functools.cache
def project_version() -> str:
    """Return raycomp's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
