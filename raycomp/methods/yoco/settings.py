"""YOCO-BERT's settings. All of its sections are shared with other methods."""

from __future__ import annotations

from typing import ClassVar

from raycomp.config.section import MethodSettings


class YocoSettings(MethodSettings):
    """YOCO-BERT reads [space], [train], [search], [heal], [finetune] and [[budget]]."""

    method: ClassVar[str] = "yoco"
    title: ClassVar[str] = "YOCO-BERT"
    shared_sections: ClassVar[tuple[str, ...]] = ("heal",)
