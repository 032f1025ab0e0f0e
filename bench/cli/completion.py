"""What a shell offers behind Tab: names of methods, tasks, judges, presets, models and runs.

Invariant: nothing is imported that takes longer than a user waits for a key: shipped names are read from their sources,
and the command is loaded only where its own options are asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from bench.core.shipped import home

SHIPPED = {"method": "methods", "task": "tasks", "judge": "bench.judges"}
"""The package of the classes of a kind, each under a decorator with its name."""
BEFORE = re.compile(r"(.*(?:,-|[,!+(]))?(.*)", re.DOTALL)
"""What is written of a list or combination of names, and the name that is being written."""


def registered(kind: str, ctx: click.Context) -> Iterator[str]:
    """Names of the shipped classes, and of those of the files that `--plugin` gave."""
    files = [*home(SHIPPED[kind]).glob("*.py"), *(ctx.find_root().params.get("plugin") or ())]
    for path in files:
        try:
            yield from re.findall(rf'^@{kind}\(\s*"([^"]+)"', Path(path).read_text("utf-8"), re.M)
        except (OSError, UnicodeDecodeError):
            continue  # running the command says what is wrong with it


def methods(ctx: click.Context) -> Iterator[str]:
    from bench.core.surfaces import SURFACES

    yield from ("all", *SURFACES)
    yield from registered("method", ctx)


def presets(_: click.Context) -> Iterator[str]:
    from bench.core.protocol import PRESETS

    yield from PRESETS


def models(_: click.Context) -> Iterator[str]:
    """Packaged models, and those of the Hugging Face hub that are on this machine."""
    from bench.backends.models import PACKAGED

    yield from PACKAGED
    home = os.environ.get("HF_HOME", Path("~/.cache/huggingface").expanduser())
    for folder in Path(os.environ.get("HF_HUB_CACHE", Path(home) / "hub")).glob("models--*--*"):
        yield folder.name.removeprefix("models--").replace("--", "/", 1)


def runs(ctx: click.Context) -> Iterator[str]:
    """Folders of the runs that the command would look at."""
    from bench.results.last import roots

    given = ctx.params.get("results") or os.environ.get("BENCH_RESULTS")
    for root in roots(Path(given) if given else None):
        yield from (path.parent.name for path in root.glob("*/*/*/run.json"))


class Names(click.types.StringParamType):
    """A text that names something; `listed` where commas, `+` and brackets may join several, and folders are meant too
    where `folders`."""

    def __init__(
        self, found: Callable[[click.Context], Iterator[str]], listed: bool = False, folders: bool = False
    ) -> None:
        self.found, self.listed, self.folders = found, listed, folders

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if self.folders and incomplete.startswith((".", "/", "~")):
            return [CompletionItem(incomplete, type="dir")]
        before, begun = "", incomplete
        if self.listed and (parts := BEFORE.fullmatch(incomplete)):
            before, begun = parts[1] or "", parts[2]
        return [CompletionItem(before + name) for name in sorted(set(self.found(ctx))) if name.startswith(begun)]


METHODS = Names(methods, listed=True)
TASKS = Names(lambda ctx: registered("task", ctx))
JUDGES = Names(lambda ctx: registered("judge", ctx))
MODELS = Names(models, folders=True)
RUNS = Names(runs, folders=True)
OPTIONS = {
    **dict.fromkeys(("-m", "--methods"), METHODS),
    **dict.fromkeys(("-t", "--task"), TASKS),
    "--judge": JUDGES,
    "--model": MODELS,
    "--preset": Names(presets),
}
"""Options that take a name, of whichever command."""
ARGUMENTS = {
    **dict.fromkeys(
        ("show", "compare", "export", "power", "overhead", "capability", "judge rate", "judge sample"), RUNS
    ),
    "check method": Names(lambda ctx: registered("method", ctx)),
    "check named": Names(lambda ctx: registered("method", ctx)),
    "check task": TASKS,
    "check judge": JUDGES,
    **dict.fromkeys(("doctor", "models path", "models fetch"), MODELS),
}
"""Commands whose arguments are names, with the word that says what to do where there is one."""


def typed(command: click.Command, path: str) -> click.Command:
    """The command with these types on its options and arguments, and on those of the commands below it."""
    for param in command.params:
        if type(param.type) is not click.types.StringParamType:
            continue
        if isinstance(param, click.Argument):
            param.type = ARGUMENTS.get(path, param.type)
        else:
            param.type = next((OPTIONS[name] for name in param.opts if name in OPTIONS), param.type)
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            typed(below, f"{path} {name}")
    return command


class Light(click.Command):
    """Stands for a command that is not loaded while one of its names is completed; `load` gives it for its options."""

    def __init__(self, param: click.Parameter, load: Callable[[], click.Command | None]) -> None:
        super().__init__("light", params=[param])
        self.load = load

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        command = self.load()
        return command.shell_complete(ctx, incomplete) if command else []


def light(words: Sequence[str], load: Callable[[str], click.Command | None]) -> Light | None:
    """What completes the word after `words`, which begin with a command's name, where no more of the command is needed:
    after an option that takes a name, and where nothing but names stand. `load` gives the command of a name."""
    if kind := OPTIONS.get(words[-1]):
        return Light(click.Option([words[-1], "value"], type=kind), lambda: load(words[0]))
    if any(word.startswith("-") for word in words):
        return None
    path = next((path for path in (" ".join(words[:2]), words[0]) if path in ARGUMENTS), "")
    name, _, below = path.partition(" ")

    def command() -> click.Command | None:
        found = load(name)
        return found.commands.get(below, found) if isinstance(found, click.Group) else found

    return Light(click.Argument(["names"], nargs=-1, type=ARGUMENTS[path]), command) if path else None
