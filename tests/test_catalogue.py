"""docs/methods.md says what the method classes say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import script

from bench.core import registry
from bench.report import catalogue
from bench.report.catalogue import paragraphs

documents = script("tools/documents.py")
COMMAND, document = documents.COMMAND, documents.methods

FILE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
SHIPPED = [name for name, cls in registry.table("method").items() if cls.__module__.startswith("methods.")]


def test_the_committed_file_is_the_generated_one() -> None:
    assert FILE.read_text("utf-8") == document(), f"docs/methods.md is stale; run: {COMMAND}"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_method_has_a_row_and_a_section_with_its_summary(name: str) -> None:
    cls, text = registry.get("method", name), document()
    assert text.count(f"\n| [{name}](#{name}) | {cls.surface} |") == 1
    section = text.split(f"\n### {name}\n\n")[1].split("\n### ")[0]
    assert section.startswith(documents._shown("", cls.summary()))
    doc = cls.__doc__ or ""
    assert all((f"*{label}" in section) == (f"\n    {label}" in doc) for label in catalogue.LABELS)


def test_a_table_row_has_every_column() -> None:
    rows = [line for line in document().split("## Held to their peers")[0].splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(SHIPPED)
    assert {row.replace("\\|", "").count("|") for row in rows} == {len(documents.COLUMNS) + 1}


def test_a_plugin_is_not_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    before = document()
    cls = type("Foreign", (registry.get("method", "none"),), {"__module__": "elsewhere", "name": "foreign"})
    monkeypatch.setitem(registry._tables["method"], "foreign", cls)
    assert "foreign" in registry.table("method")
    assert document() == before


def test_paragraphs_are_told_apart_by_label_and_blank_line() -> None:
    text = "Sum.\n\nMore\nwords.\nEquation: a = b\n  and c.\nDeviations from X: none: truly.\nReproduction: .5.\n"
    assert paragraphs(text) == [
        ("", "Sum."),
        ("", "More words."),
        ("Equation", "a = b and c."),
        ("Deviations from X", "none: truly."),
        ("Reproduction", ".5."),
    ]


def test_markdown_signs_in_an_equation_are_text() -> None:
    assert documents._shown("Equation", "a* < b_i, (x)_i `p*[0]`") == "*Equation.* a\\* \\< b_i, (x)\\_i `p*[0]`"


def test_a_field_is_shown_with_what_it_is_without_an_option() -> None:
    @dataclass(frozen=True)
    class Some:
        inner: str
        text: str = "a | b\nc"
        flag: bool = False
        many: tuple[int, ...] = (1, 2)
        made: tuple[str, ...] = field(default_factory=tuple)
        own: int = field(default=0, init=False)

    shown = ["`inner`", '`text = "a | b\\nc"`', "`flag = false`", "`many = [1, 2]`", "`made = []`"]
    assert [documents._set(*pair) for pair in catalogue.fields(Some)] == shown
