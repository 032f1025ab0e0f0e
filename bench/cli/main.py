"""The command line of `bench`: run, inspect, compare, judge, plan, price and report.

Invariant: stdout carries results, stderr plan and progress; exit codes are 0 complete, 1 something
failed or is partial, 2 usage, 130 interrupted, 143 terminated. A command's module is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

import bench.backends.threads  # noqa: F401 - from here on it counts what other programs do
from bench.cli.completion import light, typed
from bench.cli.options import debug_option, plugins
from bench.core.errors import THEIRS, BenchError, UsageError, named, traced

COMMANDS = {
    "run": ("run:run", "Run methods on a task; what is done is not done again."),
    "show": ("results:show", "Show one RUN: its settings and the generations behind its number."),
    "compare": ("results:compare", "Compare two runs, paired by concept: ONE minus TWO."),
    "report": ("results:report", "Write leaderboards and figures from results alone."),
    "check": ("results:check", "Hold a method, task or judge to its contract, or the results to their rules."),
    "export": ("export:export", "Write the steering behind RUN's number, or the run itself, as files."),
    "docs": ("results:docs", "Renew what is generated in a checkout."),
    "judge": ("judges:judge", "Rate kept generations again; validate a judge; draw texts to rate."),
    "power": ("measure:power", "How many concepts and instructions show a difference."),
    "overhead": ("measure:overhead", "What steering costs: of RUNs, of a model, or as a blog post printed it."),
    "capability": ("measure:capability", "Measure what RUN's steering does besides its concept."),
    "data": ("data:data", "Check a data folder, or make one for your own concepts."),
    "list": ("lists:list_", "List what is registered, or the runs in a results folder."),
    "doctor": ("doctor:doctor", "Whether this machine, its cache, a judge and a MODEL can be believed."),
    "models": ("lists:models", "List packaged models, print a model's folder, or fetch one."),
    "cache": ("lists:cache", "Print the cache folder, its size by kind, or clear it."),
}
"""Where each command is (module below `bench.cli`, and its name there), and what it does, so that help loads none."""


class Group(click.Group):
    """Loads a command when it is asked for, and turns the program's errors into one line and the right exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        return typed(getattr(importlib.import_module(f"bench.cli.{module}"), name), cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """While a shell completes a name, the command itself stays unloaded where it can."""
        found = light(args, lambda name: self.get_command(ctx, name)) if ctx.resilient_parsing else None
        return (args[0], found, []) if found else super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        with ended_by_signals() as came:
            try:
                return super().invoke(ctx)
            except (*THEIRS, KeyboardInterrupt) as error:
                if not (found := told(error, came)):
                    raise
                traced(error)
        from bench.cli.console import echo  # takes a while to load

        echo(f"bench: {' '.join(found[0].splitlines())}", err=True)
        raise click.exceptions.Exit(found[1])


def told(error: BaseException, came: Sequence[int]) -> tuple[str, int] | None:
    """An error as a line and an exit code, after these signals; None for click's own, and for a mistake of the program
    that no plugin's code had a part in.

    After a signal any error is its doing: a library that was being imported may turn it into one of its own.
    """
    if came or isinstance(error, KeyboardInterrupt):
        number = came[0] if came else signal.SIGINT
        how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        return f"{how}; the same command resumes", 128 + number
    if isinstance(error, UsageError):
        return str(error), 2
    if isinstance(error, BenchError):
        return str(error), 1
    from bench.core.blame import theirs  # these take a while to load
    from bench.core.registry import plugin_files

    if place := theirs(error, plugin_files()):
        return f"{place}: {named(error)}", 1
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}; nothing half-written", 1
    return None


@contextmanager
def ended_by_signals() -> Iterator[list[int]]:
    """Have SIGTERM and SIGHUP end the block as Ctrl-C does, so that what is under way is closed and said; yields those
    that come. What the caller ignores (`nohup`) stays ignored."""
    came: list[int] = []

    def end(number: int, _: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in ENDING if hasattr(signal, name)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, end)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="steer-or-prompt", prog_name="bench")
@click.option("--plugin", multiple=True, type=click.Path(path_type=Path), help="Import a file that registers classes.")
@debug_option
def main(plugin: tuple[Path, ...]) -> None:
    """Should I steer this model or just prompt it?"""
    plugins(plugin)
