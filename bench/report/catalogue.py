"""`docs/methods.md`: the shipped methods as their own classes describe them.

Invariant: the text depends on `methods/` alone, never on plugins, so the committed file can be checked.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from typing import Any

from bench.core import registry
from bench.core.content import plain
from bench.core.interfaces import Method

COMMAND = "bench list methods --markdown > docs/methods.md"
LABELS = ("Equation", "Deviation", "Reproduction")
COLUMNS = ("method", "family", "paper", "needs", "views", "gives", "fields")


def document() -> str:
    """The whole file: one table, then a section a method, by family and name."""
    classes = [cls for cls in registry.table("method").values() if cls.__module__.startswith("methods.")]
    classes.sort(key=lambda cls: (cls.family, cls.name))
    head = [
        "# Methods",
        f"Generated from the classes in `methods/`: `{COMMAND}`.",
        "*needs* is what an engine must be able to do, *views* the training data a method reads, *gives* what its "
        "fits hold. A field is set with `-p NAME.FIELD=VALUE`. Any `a+b` runs two methods at once.",
    ]
    rows = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", *map(_row, classes)]
    sections = [part for family in dict.fromkeys(cls.family for cls in classes) for part in _family(family, classes)]
    return "\n\n".join([*head, "\n".join(rows), *sections]) + "\n"


def _row(cls: type[Any]) -> str:
    sets = [", ".join(sorted(values)) for values in (cls.needs, cls.views, cls.gives)]
    cells = (
        f"[{cls.name}](#{cls.name})",
        cls.family,
        _paper(cls.paper),
        *sets,
        ", ".join(_set(*pair) for pair in fields(cls)),
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _family(family: str, classes: list[type[Any]]) -> list[str]:
    return [f"## {family.capitalize()}", *(_section(cls) for cls in classes if cls.family == family)]


def _section(cls: type[Any]) -> str:
    """Heading, summary, then each labelled paragraph of the docstring with its label set apart."""
    parts = [_shown(label, text) for label, text in paragraphs(inspect.getdoc(cls) or "")]
    contract = "; ".join(marks(cls))
    return "\n\n".join([f"### {cls.name}", *parts, *([_shown("Contract", f"{contract}.")] if contract else [])])


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


def _shown(label: str, text: str) -> str:
    """A paragraph as Markdown: outside of code, stars, brackets and loose underscores are what they are."""
    pieces = re.split(r"(`[^`]*`)", text)
    special = r"([*<\[\]]|(?<!\w)_|_(?!\w))"
    shown = "".join(p if p.startswith("`") else re.sub(special, r"\\\1", p) for p in pieces)
    return f"*{label}.* {shown}" if label else shown


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


def _set(name: str, default: str) -> str:
    return f"`{name} = {default}`" if default else f"`{name}`"


def _paper(paper: str) -> str:
    number = paper.removeprefix("arXiv:")
    return f"[{paper}](https://arxiv.org/abs/{number})" if paper.startswith("arXiv:") else paper
