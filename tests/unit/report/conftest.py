"""Pages without plotly's script of 5 MB, which takes most of the time to write and to read again."""

from __future__ import annotations

import pytest

from raycomp.report import page

SHORT_SCRIPT = "const plotly = 'left out';"


@pytest.fixture
def whole_page() -> None:
    """Let a test write pages with plotly's script; the fixture `both` of test_page.py has it, too."""


@pytest.fixture(autouse=True)
def _short_plotly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "whole_page" not in request.fixturenames:
        monkeypatch.setattr(page, "_read_plotly", lambda: SHORT_SCRIPT)
