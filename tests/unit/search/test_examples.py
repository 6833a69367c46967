"""Examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from raycomp.encoder import architecture
from raycomp.search import updates


@pytest.mark.parametrize("module", [architecture, updates])
def test_examples_in_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
