"""What several commands share: options, plugins, groups with a default.

Invariant: nothing heavy is imported until a command needs it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bench.core.errors import DEBUG
from bench.core.shapes import MOST

if TYPE_CHECKING:
    from bench.results.runs import Run

C = TypeVar("C", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A number in a range; NaN and infinity, which every comparison lets through, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return found


class Whole(click.IntRange):
    """A whole number in a range that ends somewhere: a count of things that are made or read one by one."""

    def __init__(self, least: int, most: int = MOST) -> None:
        super().__init__(least, most)


SEED = click.IntRange(0, 2**32 - 1)
"""What every generator of random numbers takes."""


class WithDefault(click.Group):
    """A group whose first command is meant where none is named: `bench judge RUN` is `bench judge rate RUN`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


def plugins(paths: tuple[Path, ...]) -> None:
    if paths:
        from bench.core.registry import load_plugin

        for path in paths:
            load_plugin(path)


def named(name: str, folder: Path | None) -> Run:
    """The run that a name means: of the last command first, and said on stderr, where no folder is given."""
    from bench.cli.console import say
    from bench.results.last import find

    run, line = find(name, folder)
    if folder is None:
        say(line)
    return run


def latest(folder: Path | None) -> list[Run]:
    """The runs of the last command, which is said on stderr: what a command means that is given none."""
    from bench.cli.console import say
    from bench.results.last import latest as found_last

    found, line = found_last(folder)
    say(line)
    return found


class Dollars(click.FloatRange):
    """An amount above 0. Not a number and infinity are no limit, and no request would ever be held to one."""

    def __init__(self) -> None:
        super().__init__(0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is no amount of dollars.", param, ctx)
        return found


max_cost_option = click.option(
    "--max-cost",
    type=Dollars(),
    metavar="DOLLARS",
    help="Ask hosted models nothing more before they could cost more than this.",
)


def _debug(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Set `BENCH_DEBUG` while the command runs, for its workers too."""
    if wanted:
        before = os.environ.get(DEBUG)
        os.environ[DEBUG] = "1"
        back = partial(os.environ.__setitem__, DEBUG, before) if before is not None else partial(os.environ.pop, DEBUG)
        ctx.find_root().call_on_close(back)


debug_option = click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_debug,
    help="Show tracebacks of what is told in a line [$BENCH_DEBUG].",
)


def plugin_option(command: C) -> C:
    """What every command has that runs third parties' code."""
    late = click.option(
        "--plugin", "late", multiple=True, type=click.Path(path_type=Path), help="As before the command."
    )
    return late(debug_option(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
force_option = click.option("--force", is_flag=True, help="Write over files that hold something else.")
results_option = click.option(
    "--results", type=click.Path(path_type=Path), envvar="BENCH_RESULTS", help="Results folder [$BENCH_RESULTS]."
)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' own progress bars."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    yield
