"""Files and directories whose name carries a hash of their content.

`raycomp.compress` writes a model or a table from memory to `<storage>/inputs/NAME-HASH`. The hash
identifies the content, and the directory is not a part of a run's identity: the same data give the same
run, on every machine and in every storage.
"""

from __future__ import annotations

import re

_CONTENT_NAME = re.compile(r"(?:^|.*/)(inputs/(?:train|validation|model)-[0-9a-f]{16}(?:\.parquet)?)")


def drop_directory(path: str | None) -> str | None:
    """Return `inputs/NAME-HASH` for a path with such a name; any other text is returned as it is.

    Args:
        path: Value of a setting, such as `model.name` or `task.train`.
    """
    if path is None:
        return None

    match = _CONTENT_NAME.fullmatch(path)
    if match is None:
        return path
    return match[1]
