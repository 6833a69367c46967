"""The examples in the docstrings of the methods' modules run and print what they say."""

from __future__ import annotations

import doctest
import importlib
from types import ModuleType

import pytest

MODULES = [
    "raycomp.methods.adabert.gumbel",
    "raycomp.methods.adabert.losses",
    "raycomp.methods.adabert.structure",
    "raycomp.methods.adabert.student",
    "raycomp.methods.yoco.eesng",
    "raycomp.methods.yoco.schedule",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    module: ModuleType = importlib.import_module(name)
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
