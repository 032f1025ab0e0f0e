"""What is printed is anybody's text: nothing of it steers a terminal, is markup, or ends a command."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from page_cases import Recipe, write
from payloads import PAYLOADS, STEERING
from stub_server import Stub, error

from bench.cli.console import Console
from bench.cli.main import main
from bench.core.escape import dumped, printable

ROOT = Path(__file__).resolve().parents[1]
SEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def bench(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def quiet(result: Result, *codes: int) -> str:
    """What a command that ended well printed, in which nothing steers."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (codes or (0,)), result.stderr
    for text in (result.stdout, result.stderr):
        assert not SEEN.findall(text)
    return result.stdout


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two methods in which every text is an attack: names, model, judge, metrics, reasons."""
    root = tmp_path_factory.mktemp("hostile") / "results"
    turn = iter(range(10**6))
    recipe = Recipe(
        (("prompt", "prompt"), ("diffmean", PAYLOADS[11])), PAYLOADS, tests=2, selects=1, said=PAYLOADS[12],
        words=lambda rng: PAYLOADS[next(turn) % len(PAYLOADS)], note=PAYLOADS[12], about=PAYLOADS[13],
    )  # fmt: skip
    for path in write(recipe, root):
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        data["spec"] |= {"model": PAYLOADS[11], "judge": PAYLOADS[12], "dtype": PAYLOADS[13]}
        data["spec"]["protocol"]["preset"] = "standard"
        for i, sample in enumerate(data["samples"]):
            sample["reasons"] = {"concept": PAYLOADS[i % len(PAYLOADS)]}
            sample["id"] = f"s{i}"
        path.write_text(json.dumps(data), "utf-8")
    return root


@pytest.mark.parametrize(
    "words",
    [
        ("list", "runs"),
        ("show", "prompt"),
        ("show", "diffmean", "-n", "99"),
        ("show", "diffmean", "--sample", "s3"),
        ("show", "diffmean", "-n", "99", "--json"),
        ("show", "diffmean", "--concept", "\x1b[2J"),
        ("show", "\x1b]0;x\x07"),
        ("compare", "prompt", "diffmean"),
        ("check", "results"),
        ("overhead", "prompt"),
        ("power", "prompt", "diffmean"),
        ("export", "prompt"),
    ],
)
def test_no_command_on_hostile_results_steers_the_terminal(hostile: Path, words: tuple[str, ...]) -> None:
    text = quiet(bench(*words, "--results", str(hostile)), 0, 1, 2)
    if "--json" in words:
        shown = {sample["text"] for sample in json.loads(text)["samples"]}
        assert set(PAYLOADS) <= shown  # told as it is to programs


def test_brackets_in_names_are_no_markup(hostile: Path) -> None:
    shown = quiet(bench("show", "diffmean", "-n", "99", "--results", str(hostile)))
    assert "[red]loud[/red] [/] [link=http://evil.example]x[/link] :skull: {0} {{ 7*7 }} %s" in shown


def test_what_a_server_says_is_shown_without_what_steers(stub: Stub) -> None:
    text = json.dumps(
        {"error": {"message": f"no\x1b[2J\x1b]52;c;eA==\x07 {STEERING[:7]}\nbench: all is well", "type": "x"}}
    )
    stub.behave = lambda number, prompt: error(400, text)
    words = ("run", "--backend", "fake", "-m", "none", "-n", "1", "--judge", "openai:x\x1b[2J")
    done = bench(*words)
    quiet(done, 1)
    assert "bench: all is well" not in done.stderr.splitlines()


def test_a_styled_console_lets_no_foreign_code_through() -> None:
    console = Console(force_terminal=True, width=400)
    with console.capture() as seen:
        for payload in PAYLOADS:
            console.print(payload.replace("\n", " "), style="bold")
    own = re.sub("\x1b\\[[01]m", "", seen.get())
    assert not SEEN.findall(own)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_texts_keep_all_that_does_nothing(payload: str) -> None:
    assert json.loads(dumped({payload: payload})) == {payload: payload}
    assert not SEEN.findall(dumped([payload]))
    assert printable("tabs\tand\nlines, ünïcödé, 日本語, עברית") == "tabs\tand\nlines, ünïcödé, 日本語, עברית"
    assert len(printable(payload)) == len(payload)


def test_commands_print_through_one_module() -> None:
    """Who prints otherwise prints foreign text as it is."""
    found = []
    for path in sorted((ROOT / "bench" / "cli").glob("*.py")):
        text = path.read_text("utf-8")
        called = {ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
        found += [
            f"{path.name}: {name}" for name in called & {"click.echo", "click.secho", "print", "sys.stdout.write"}
        ]
        found += [f"{path.name}: rich's console"] if path.name != "console.py" and "rich.console" in text else []
    assert found == ["console.py: click.echo"]
