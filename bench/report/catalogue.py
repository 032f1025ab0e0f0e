"""A method's class as data: its docstring by paragraph, its fields, what the contract holds it to."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from bench.core.content import plain
from bench.core.interfaces import Method

LABELS = ("Equation", "Deviation", "Reproduction")


def marks(cls: type[Any]) -> list[str]:
    """What the contract tests hold a method to, beyond what they ask of all."""
    flags = {
        "swapping positives and negatives flips it": cls.antisymmetric,
        "a planted direction is recovered": cls.recovers,
        "two fits may differ": not cls.deterministic,
        "it only suppresses a concept": cls.suppresses,
        "not validated: no positive control yet": not cls.validated,
    }
    return [text for text, present in flags.items() if present]


def paragraphs(text: str) -> list[tuple[str, str]]:
    """(label, text) of a docstring's paragraphs, "" for those without; a label starts its own paragraph."""
    found: list[tuple[str, str]] = []
    fresh = True
    for line in text.splitlines():
        label = re.match(rf"((?:{'|'.join(LABELS)})[^:.]*):\s*", line)
        if label:
            found.append((label[1], line[label.end() :]))
        elif line.strip() and fresh:
            found.append(("", line.strip()))
        elif line.strip():
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
        fresh = not line.strip()
    return found


def fields(cls: type[Any]) -> list[tuple[str, str]]:
    """Name and default, as JSON, of what a user can set; "" for what has none."""
    found = []
    for f in dataclasses.fields(cls):
        made = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        if f.init:
            value = made.name if isinstance(made, Method) else made
            shown = json.dumps(plain(value), ensure_ascii=False) if made is not dataclasses.MISSING else ""
            found.append((f.name, shown))
    return found
