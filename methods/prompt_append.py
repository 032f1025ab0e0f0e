"""Prompting with one line that always stands after the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench import method
from methods.prompt import OneLine


@method("prompt-append", surface="prompt", paper="arXiv:2505.20809", views=(), needs=["prompt"], named=True)
@dataclass(frozen=True)
class Appended(OneLine):
    """The one line of `prompt`, after the question only: RePS's appended defence.

    Deviations: several wordings, of which the select split picks one; in their paper a language model
    rewrites a fixed one.
    Reproduction: they report that appended orders leak under attack less than prepended ones; no table.
    """

    place: ClassVar[str] = "suffix"
