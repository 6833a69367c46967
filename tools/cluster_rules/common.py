"""What the rules of all kinds of files share: schemas, YAML, images, shell commands, secrets."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
RUNS = "/mnt/runs"  # the folder of the runs, on every node
Fault = tuple[str, str]  # where in the file, what is wrong

SECRET_NAME = re.compile(r"(^|_)(TOKEN|PASSWORD|SECRET|KEY|CREDENTIALS?)$")
_SECRET_VALUE = re.compile(
    r"hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|-----BEGIN"
    r"|(?<!sha256:)\b[0-9a-f]{64}\b"
)
_PIPED = re.compile(r"\b(curl|wget)\b[^|;&]*\|\s*(sudo\s+)?(ba|z)?sh\b")


def secrets(text: str) -> Iterator[Fault]:
    """Find what looks like a token or a key, in any file."""
    for number, line in enumerate(text.splitlines(), 1):
        if _SECRET_VALUE.search(line):
            yield f"line {number}", "a secret in plain text"


def schema_faults(value: Any, schema: dict[str, Any]) -> Iterator[Fault]:
    """Validate a value against a JSON Schema."""
    validator = jsonschema.validators.validator_for(schema)(schema)
    for error in sorted(validator.iter_errors(value), key=lambda e: str(e.json_path)):
        yield error.json_path.removeprefix("$").removeprefix("."), error.message


def image(name: str, at: str, *, own: bool = True) -> Iterator[Fault]:
    """Check that an image has an explicit tag, and that our own has raycomp's version in it."""
    last, _, tag = name.partition("@")[0].rpartition("/")[2].partition(":")
    version = project_version()
    if not last or not tag or tag == "latest":
        yield at, f"{name or 'no image'}: give an explicit tag, not latest"
    elif own and not tag.startswith(f"{version}-"):
        yield at, f"{name}: the tag must begin with raycomp's version, {version}"


def shell(command: str, at: str) -> Iterator[Fault]:
    """Check a shell command: no unpinned pip, no download that is piped into a shell."""
    if _PIPED.search(command):
        yield at, "pipes a download into a shell"
    for part in re.split(r"&&|\|\||;", command):
        _, found, rest = part.partition("pip install ")
        if not found:
            continue
        words = [word.strip("\"'") for word in rest.split()]
        if "--no-cache-dir" not in words:
            yield at, "pip install without --no-cache-dir"
        if "--constraint" not in words:
            named = [word for word in words if not word.startswith("-")]
            yield from ((at, f"pip install {word} is not pinned") for word in named if "==" not in word)


def settings(given: dict[str, str], at: str) -> Iterator[Fault]:
    """Compare an environment with raycomp.runtime.cluster.connect.RAY_SETTINGS."""
    for key, value in _runtime_settings().items():
        if given.get(key) != value:
            yield at, f"{key} must be {value}, as in raycomp/runtime/cluster/connect.py"


class Loader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error, as it is for kubectl."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} is given twice {node.start_mark}")
        return dict(super().construct_mapping(node, deep))


@functools.cache
def _runtime_settings() -> dict[str, str]:
    tree = ast.parse(
        (ROOT / "raycomp/runtime/cluster/connect.py").read_text()
    )  # importing it imports Ray
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RAY_SETTINGS":
            return dict(ast.literal_eval(node.value))
    raise LookupError("raycomp/runtime/cluster/connect.py has no RAY_SETTINGS")


@functools.cache
def pinned(package: str) -> str:
    """Return a package's version in constraints.txt."""
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return found[1] if found else ""


@functools.cache
def project_version() -> str:
    """Return raycomp's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
