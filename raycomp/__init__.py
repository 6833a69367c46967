"""raycomp compresses a fine-tuned encoder once on Ray, then deploys it under every budget.

A public name is imported when it is first used, which keeps `import raycomp` fast:

- `compress` runs a job and returns a `Run`; `plan` predicts what it would cost.
- `submit` runs a job on a cluster; `open_run` opens a run that exists.
- `Budget` and `Job` describe a job; `Callback` follows one.
- `UserError` is the exception of every mistake that a user can mend.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycomp.api.callbacks import Callback as Callback
    from raycomp.api.compression import compress as compress
    from raycomp.api.compression import plan as plan
    from raycomp.api.deployment import Deployment as Deployment
    from raycomp.api.job_builder import Budget as Budget
    from raycomp.api.run import Run as Run
    from raycomp.api.run import open_run as open_run
    from raycomp.api.submission import SubmittedJob as SubmittedJob
    from raycomp.api.submission import submit as submit
    from raycomp.config.job import Job as Job
    from raycomp.errors import UserError as UserError
    from raycomp.version import VERSION as __version__

_MODULES = {
    "Budget": "raycomp.api.job_builder",
    "Callback": "raycomp.api.callbacks",
    "Deployment": "raycomp.api.deployment",
    "Job": "raycomp.config.job",
    "Run": "raycomp.api.run",
    "SubmittedJob": "raycomp.api.submission",
    "UserError": "raycomp.errors",
    "__version__": "raycomp.version",
    "compress": "raycomp.api.compression",
    "open_run": "raycomp.api.run",
    "plan": "raycomp.api.compression",
    "submit": "raycomp.api.submission",
}
"""The module of each public name."""

__all__ = [
    "Budget",
    "Callback",
    "Deployment",
    "Job",
    "Run",
    "SubmittedJob",
    "UserError",
    "__version__",
    "compress",
    "open_run",
    "plan",
    "submit",
]

# A library prints nothing by itself: an application decides where the log goes.
logging.getLogger("raycomp").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'raycomp' has no attribute {name!r}")

    # The module of the version follows the naming rule of constants; the package, that of packages.
    attribute = "VERSION" if name == "__version__" else name
    value = getattr(importlib.import_module(_MODULES[name]), attribute)

    # The next use finds the name without this function.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names. Shells and notebooks use them to complete input."""
    return sorted({*globals(), *__all__})
