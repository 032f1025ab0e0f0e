"""Files as values of a shape: what is wrong is said in one line, with the file, the row or the place in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pyarrow as pa
import pytest
from pyarrow import parquet

from bench.core.documents import read_csv, read_json, read_lines, read_table, read_toml
from bench.core.errors import BenchError, UsageError
from bench.core.settings import cast
from bench.core.shapes import Count, Misfit, Range, Size, Text, held


class Inner(TypedDict):
    n: Count
    name: NotRequired[Text]


class Outer(TypedDict):
    version: Literal[1]
    parts: dict[str, list[Inner]]
    share: Annotated[float, Range(0, 1)] | None


def outer(**changed: Any) -> dict[str, Any]:
    return {"version": 1, "parts": {"a": [{"n": 0}, {"n": 3, "name": "b"}]}, "share": 0.5, "more": [1]} | changed


def test_a_value_of_the_shape_is_given_back_as_it_is() -> None:
    for value in (outer(), outer(share=None), outer(share=1), outer(parts={})):
        assert held(value, Outer) is value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "it is [], not an object"),
        (outer(version=2), "version is 2, none of 1"),
        (outer(version=True), "version is True, none of 1"),
        ({"version": 1, "parts": {}}, "it lacks share"),
        (outer(parts={"a": [{"n": 0}, {"n": -1}]}), "parts.a.1.n is -1, which is not 0 or more"),
        (outer(parts={"a": [{"n": True}]}), "parts.a.0.n is True, not a whole number"),
        (outer(parts={"a": [{"n": 1.0}]}), "parts.a.0.n is 1.0, not a whole number"),
        (outer(parts={"a": [{"n": 1, "name": " "}]}), "parts.a.0.name is ' ', which is empty"),
        (outer(share=1.5), "share is 1.5, which is not from 0 to 1"),
        (outer(share="x" * 99), f"share is '{'x' * 56}…, not a number"),
    ],
)
def test_a_misfit_names_the_innermost_place(value: Any, said: str) -> None:
    with pytest.raises(Misfit) as raised:
        held(value, Outer)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "data/file.json is not a list: it is not JSON: Expecting property name"),
        (b"\xff\xfe", "it is no UTF-8 text (byte 1)"),
        (b"[NaN]", "it holds NaN, which is no number"),
        (b"[1e999]", "it holds the number 1e999, which is too large"),
        (b"[" + b"9" * 6000 + b"]", "it holds the number 99999999999999999999…, which is too large"),
        (b"[" * 100_000, "it nests too deep"),
        (b'["\\ud800"]', "it holds half of a surrogate pair"),
        (b'["a", 1]', "1 is 1, not a text; write texts"),
        (None, "data/file.json cannot be read: No such file or directory; write texts"),
    ],
)
def test_a_file_that_is_no_value_is_told_in_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "data" / "file.json"
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BenchError) as raised:
        read_json(path, list[str], "a list", "write texts")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_and_a_pipe_in_place_of_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="a folder or a device, not a file"):
        read_json(tmp_path, Any, "a list")


def test_lines_tables_and_settings_name_their_row(tmp_path: Path) -> None:
    lines, table, toml = tmp_path / "a.jsonl", tmp_path / "a.csv", tmp_path / "a.toml"
    lines.write_text('{"n": 1}\n\n{"n": "x\u2028"}\n')
    with pytest.raises(BenchError, match=r"a.jsonl, row 3 is not a list: n is 'x.*', not a whole number"):
        read_lines(lines, Inner, "a list")
    table.write_text("\ufeffa,b\n1,2\n3\n", encoding="utf-8")
    with pytest.raises(BenchError, match=r"a.csv, row 3 is not a table: 1 cell for 2 columns"):
        read_csv(table, ("a", "b"), "a table")
    table.write_text("a,b\n1,2\n\n", encoding="utf-8")
    assert read_csv(table, ("b",), "a table") == [{"a": "1", "b": "2"}]
    with pytest.raises(BenchError, match="it lacks the columns c, d"):
        read_csv(table, ("c", "d"), "a table")
    toml.write_text("a = [1.0, nan]\n")
    with pytest.raises(UsageError, match=r"a.toml is not a configuration: a is nan, which is no number"):
        read_toml(toml, dict[str, Any], "a configuration", error=UsageError)


def test_a_parquet_table_whose_text_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    raw = pa.array([b"\xff\xfe"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 1, raw.buffers())
    parquet.write_table(pa.table({"a": text}), tmp_path / "a.parquet")
    with pytest.raises(BenchError, match=r"a.parquet is not a table: 'utf-8' codec can't decode"):
        read_table(tmp_path / "a.parquet", ["a"], "a table")


@pytest.mark.parametrize(
    ("text", "hint", "said"),
    [
        ("99999999999999999999", int, "x = '99999999999999999999' is not a whole number"),
        ("0", Size, "x = '0' is not from 1 to 1e+06"),
        ("nan", Annotated[float, Range(0)], "x = 'nan' is not a number"),
        ("1e30", float, "x = '1e30' is not a number"),
    ],
)
def test_a_field_says_what_it_can_be(text: str, hint: Any, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        cast(text, hint, "x")
    assert said in str(raised.value)
