"""Samplers by name, also those of other packages."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from raycomp.methods.registry import SAMPLERS, import_object, load_sampler


def test_samplers_have_short_names_or_import_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in SAMPLERS.items():
        assert load_sampler(name) is load_sampler(path) is import_object(path)

    def build_sampler(job: Any, plan: dict[str, Any]) -> str:
        return f"drawn from {plan['samples']}"

    module = ModuleType("another_package")
    module.build_sampler = build_sampler  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "another_package", module)
    assert load_sampler("another_package:build_sampler")(None, {"samples": 4}) == "drawn from 4"

    with pytest.raises(KeyError, match="unheard_of"):
        load_sampler("unheard_of")
