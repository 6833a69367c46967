"""Settings of the documentation site: `make docs-build` writes it to build/docs.

The source directory is the root of the repository, so that a relative link works on GitHub and on the
site alike. Only the files of `include_patterns` become pages. The build needs no network.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from raycomp import __version__  # noqa: E402

project = "raycomp"
author = "The raycomp authors"
project_copyright = "The raycomp authors, Apache-2.0"
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
]

root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "benchmarks/README.md",
    "cluster/*.md",
    "examples/README.md",
    "jobs/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "raycomp", "tests", "**/*.egg-info"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# The examples of the pages run here; those of docstrings run in tests/unit/tools/test_examples.py.
doctest_test_doctest_blocks = ""

html_theme = "furo"
html_title = "raycomp"
html_copy_source = False

REDIRECT = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html">\n'


def setup(app: Sphinx) -> None:
    """Make the root of the site lead to docs/index.html."""
    app.connect("build-finished", _write_redirect)


def _write_redirect(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        (Path(app.outdir) / "index.html").write_text(REDIRECT, encoding="utf-8")
