"""What Tab offers, asked of click as a shell asks it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from bench.backends.models import PACKAGED
from bench.cli.completion import ARGUMENTS, OPTIONS, Light, Names
from bench.cli.main import main
from bench.core import registry
from bench.core.protocol import PRESETS


def offered(*words: str) -> list[str]:
    """What stands for the last word, which is being written."""
    *before, begun = words
    return [item.value for item in ShellComplete(main, {}, "bench", "_BENCH_COMPLETE").get_completions(before, begun)]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("run", "--task"), "task"),
        (("run", "--judge"), "judge"),
        (("check", "task"), "task"),
        (("run", "-m"), "method"),
    ],
)
def test_the_names_are_those_that_are_registered(words: tuple[str, ...], kind: str, own_names: None) -> None:
    assert {*registry.table(kind)} <= {*offered(*words, "")}
    assert all(name in registry.table(kind) for name in offered(*words, "p"))


@pytest.mark.parametrize("before", ["", "diffmean,", "all,-", "a,!", "prompt+", "shuffled(", "diffmean,prompt+"])
def test_a_name_completes_where_it_stands_in_a_list(before: str) -> None:
    assert offered("run", "-n", "2", "-m", f"{before}reft") == [f"{before}reft-r1"]
    assert offered("run", f"--methods={before}reft") == [f"{before}reft-r1"]


def test_surfaces_and_all_are_names_of_many() -> None:
    assert {"all", "weights", "lora"} <= {*offered("run", "-m", "")}


def test_a_file_s_own_names_are_offered(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text('raise SystemExit  # a key pressed runs nothing\n\n@method(\n    "my-own",\n)\nclass A: ...\n')
    assert offered("--plugin", str(plugin), "run", "-m", "none,my") == ["none,my-own"]
    assert offered("--plugin", str(tmp_path / "absent.py"), "run", "-m", "my") == []


def test_presets_and_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--org--some--model").mkdir()
    assert set(offered("run", "--preset", "")) == set(PRESETS)
    for words in (("run", "--model"), ("doctor",), ("models", "fetch"), ("overhead", "--json", "--model")):
        assert set(offered(*words, "")) == {*PACKAGED, "org/some--model"}
    (folder,) = ShellComplete(main, {}, "bench", "").get_completions(["run", "--model"], "./mod")
    assert (folder.type, folder.value) == ("dir", "./mod")


@pytest.mark.parametrize(
    "words",
    [("show",), ("compare", "a-1"), ("judge", "rate"), ("export",), ("capability", "--json"), ("overhead", "a-1")],
)
def test_runs_are_those_of_the_folder_that_is_looked_at(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("diffmean-0123456789", "prompt-0123456789"):
        (made := tmp_path / "task" / "model" / name).mkdir(parents=True)
        (made / "run.json").write_text("{}")
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path))
    assert offered(*words, "d") == ["diffmean-0123456789"]
    monkeypatch.delenv("BENCH_RESULTS")
    assert offered(words[0], "--results", str(tmp_path), "prompt-") == ["prompt-0123456789"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("ru",), ["run"]),
        (("--plu",), ["--plugin"]),
        (("run", "--pres"), ["--preset"]),
        (("show", "--samp"), ["--sample"]),
        (("judge", "rate", "--judg"), ["--judge"]),
        (("judge", ""), ["rate", "sample", "validate"]),
        (("list", "met"), ["methods"]),
        (("models", ""), ["list", "path", "fetch"]),
    ],
)
def test_commands_options_and_choices_are_click_s_own(words: tuple[str, ...], found: list[str]) -> None:
    assert offered(*words) == found


def commands(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context := click.Context(command)):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, f"{path} {name}".strip())


def test_the_tables_name_what_the_commands_have() -> None:
    """And what answers in a command's stead offers what the command itself would."""
    every = dict(commands(main))
    assert {flag for command in every.values() for param in command.params for flag in param.opts} >= OPTIONS.keys()
    for path, kind in ARGUMENTS.items():
        name, below = (*path.split(), "")[:2]
        found = every[path] if path in every else every[name]
        assert any(isinstance(param, click.Argument) for param in found.params), path
        assert below in ("path", "fetch") or any(param.type is kind for param in found.params), path
    named = {path for path, one in every.items() for p in one.params if p.name in ("run", "runs", "run_a", "one")}
    assert named == {path for path, kind in ARGUMENTS.items() if kind is ARGUMENTS["show"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["run", "-m", "diffmean,pro"], "numpy"),
        (["run", "--task", ""], "numpy"),
        (["ru"], "numpy"),
        (["show", ""], "scipy"),
        (["run", "--preset", ""], "scipy"),
        (["run", "--model", ""], "scipy"),
        (["run", "--pre"], "torch"),
    ],
)
def test_a_key_loads_nothing_heavy(words: list[str], absent: str) -> None:
    script = f"""
import sys
from click.shell_completion import ShellComplete
from bench.cli.main import main
*before, begun = {words!r}
assert ShellComplete(main, {{}}, "bench", "").get_completions(before, begun)
print([name for name in ({absent!r}, "torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_of_the_page_has_its_script(shell: str) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "install.md").read_text("utf-8")
    assert f"_BENCH_COMPLETE={shell}_source bench" in page
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    assert "_BENCH_COMPLETE" in made(main, {}, "bench", "_BENCH_COMPLETE").source_vars().values()


def test_a_name_is_a_text_elsewhere() -> None:
    kind = OPTIONS["--task"]
    assert isinstance(kind, Names)
    assert (kind.name, kind("axbench")) == ("text", "axbench")
    assert not any(isinstance(command, Light) for _, command in commands(main))
