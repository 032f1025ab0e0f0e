"""One section, three renderings: Markdown in which data does nothing, JSON that is the data, the page's parts."""

from __future__ import annotations

import html
import re

from hypothesis import given, strategies as st

from bench.report.section import Grid, Section, as_json, grid, markdown, prose

SECTION = Section(
    "Against `bench judge x`, a|b:",
    (
        Grid(("method", "Δ"), (("x | y", "+0.10 [-0.20, +0.40]"), ("<i>", "p <.001"))),
        ("one `code`", "two *stars*"),
        "a text, ρ 0.5 [0.4, 0.6]",
    ),
)


def test_markdown_shows_text_as_itself_and_figures_as_they_are() -> None:
    assert markdown(SECTION) == [
        r"Against `bench judge x`, a\|b:",
        "",
        "| method | Δ |",
        "|---|---|",
        r"| x \| y | +0.10 [-0.20, +0.40] |",
        "| &lt;i&gt; | p <.001 |",
        "",
        "- one `code`",
        r"- two \*stars\*",
        "",
        "a text, ρ 0.5 [0.4, 0.6]",
    ]


def test_json_is_the_data() -> None:
    assert as_json([SECTION]) == [
        {
            "heading": "Against `bench judge x`, a|b:",
            "parts": [
                {"table": [["method", "Δ"], ["x | y", "+0.10 [-0.20, +0.40]"], ["<i>", "p <.001"]]},
                {"list": ["one `code`", "two *stars*"]},
                {"text": "a text, ρ 0.5 [0.4, 0.6]"},
            ],
        }
    ]


def shown(markdown: str) -> str:
    """What a reader of the Markdown sees, spaces apart."""
    return html.unescape(re.sub(r"\\([\\`*_\[\]|~$!#])", r"\1", markdown))


@given(st.text(alphabet=st.sampled_from("ab`[]<>|*_.,:/-+ 01\\\"'()@#$!~\n")))
def test_a_sentence_shows_what_it_was_given_and_links_nothing(text: str) -> None:
    made = prose(text)
    assert not re.search(r"(?<!\\)\](\(|\[|:)", re.sub("`[^`]*`", "", made).replace("\\\\", ""))
    assert not re.search(r"<[a-z/!]", re.sub("`[^`]*`", "", made))
    assert shown(made).split() == text.split()


def test_a_line_s_end_beside_code_is_a_space() -> None:
    assert prose("`a`\nb\n`c`") == "`a` b `c`"


@given(st.text(alphabet=st.sampled_from("p <.[]()01+-a\n|&`")))
def test_a_cell_of_a_grid_is_one_cell_without_a_tag(text: str) -> None:
    *_, line = grid(Grid(("a",), ((text,),)))
    assert "\n" not in line
    assert len(re.split(r"(?<!\\)\|", line)) == 3
    assert not re.search(r"<[a-z/!]", line)
