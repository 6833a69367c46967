"""The descriptions of settings, from which docs/job-file.md is generated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from raycomp.config.job import schema_of
from raycomp.config.messages import _section_class
from raycomp.config.study_settings import StudySettings, Variant
from raycomp.methods.registry import METHODS
from tests.check_all import check_all
from tools.job_reference import render


def settings() -> Iterator[tuple[str, FieldInfo]]:
    """Return every setting with its dotted name."""
    sections: dict[str, Any] = {"study": StudySettings, "study.variant": Variant}
    for name, field in schema_of(tuple(METHODS)).model_fields.items():
        sections[name] = _section_class(field.annotation)
    for name, section in sections.items():
        for key, field in section.model_fields.items():
            yield f"{name}.{key}", field


def literals(annotation: Any) -> set[str]:
    """Return the named values of a type."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return {value for member in get_args(annotation) for value in literals(member)}


def check_description(field: FieldInfo) -> None:
    summary, *choices = str(field.description).split("\n- ")
    assert summary[0].isupper(), summary
    assert summary.endswith("."), summary
    explained = {choice.partition("`: ")[0].strip("`") for choice in choices}
    assert {str(value) for value in literals(field.annotation)} <= explained, explained


def test_every_setting_and_choice_is_described() -> None:
    check_all(settings(), check_description)


def test_the_page_lists_every_setting_and_links_terms() -> None:
    page = render()
    for name, _ in settings():
        assert f"| `{name.rpartition('.')[2]}` |" in page
    assert "[super-network](glossary.md#models)" in page
    assert "<br>`skip`: not at all" in page
