"""The JSON files of a model folder, read before transformers reads them: each damage is one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raycomp.errors import UserError, first_line, shown

JSON_FILES = (
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Files that transformers reads as JSON objects."""

_LFS_POINTER = b"version https://git-lfs"


def check_pointers(folder: Path, name: str) -> None:
    """Refuse files that are pointers of Git LFS in place of the files themselves.

    Args:
        folder: The folder.
        name: Name of the model, used in messages.

    Raises:
        UserError: A file is such a pointer.
    """
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue

        with path.open("rb") as file:
            is_pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
        if is_pointer:
            raise UserError(
                f"{shown(path.name)} of model {name} is a pointer of Git LFS, and the file itself is "
                "elsewhere. Run git lfs pull in its repository, or fetch the model again."
            )


def check_json_files(folder: Path, name: str) -> None:
    """Refuse files that must be JSON objects and are not.

    Raises:
        UserError: A file is damaged.
    """
    for file in JSON_FILES:
        path = folder / file
        # A tokenizer.json without bytes is as good as none, and has a message of its own.
        if path.is_file() and (path.stat().st_size or file != "tokenizer.json"):
            value = read_object(path, name)
            if file == "tokenizer.json" and "model" not in value:
                raise UserError(
                    f'The {file} of {name} is damaged: it lacks the entry "model" with the vocabulary. '
                    "Save the tokenizer of the model again, or fetch the model again."
                )


def read_object(path: Path, name: str) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises:
        UserError: The file is not a JSON object in UTF-8.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"The {path.name} of {name} is damaged: it is not JSON in UTF-8 ({first_line(error)}). Fetch "
            "the model again."
        ) from None

    if not isinstance(value, dict):
        raise UserError(f"The {path.name} of {name} is not a JSON object. Fetch the model again.")
    return value
