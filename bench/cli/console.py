"""What every command prints through: lines and progress on stderr, tables on stdout.

Invariant: results go to stdout, everything else to stderr. Nothing that is printed steers a terminal but this module's
own styles: names, texts, reasons and paths are anybody's (`bench.core.escape.printable`), and no brackets are markup.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from rich import console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from bench.core.errors import UsageError
from bench.core.escape import printable


class Console(console.Console):
    """A console that shows every text as it is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, markup=False, **options)

    def render(self, *given: Any, **options: Any) -> Iterator[Segment]:
        for segment in super().render(*given, **options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


err = Console(stderr=True)


def out(width: int = 160) -> Console:
    """Where tables go; `width` columns where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else width)


def say(line: str) -> None:
    """One line on stderr."""
    err.print(" ".join(line.splitlines()), soft_wrap=True)


def echo(text: object = "", err: bool = False) -> None:
    """Text on stdout, or on stderr, for programs and readers alike."""
    click.echo(printable(str(text)), err=err)


def confirm(told: str, instead: str) -> None:
    """Ask before texts leave the machine; where nobody can be asked, UsageError with what to do `instead`."""
    if not sys.stdin.isatty():
        raise UsageError(f"{told}; {instead}")
    click.confirm(f"bench: {told}. Go on?", abort=True, err=True)


def money(judging: Mapping[str, Any], limit: float) -> str:
    """What a hosted model will take (`Judge.estimate`), as a line."""
    tokens = f"judge: about {judging['prompt_tokens']:,} tokens read and at most {judging['tokens']:,} written"
    if judging["dollars"] is None:
        return tokens + "; no price is known for its model (-p openai.price=IN,OUT)"
    over = f", over --max-cost ${limit:g}: asking may stop there" if limit and judging["dollars"] > limit else ""
    return f"{tokens}: about ${judging['dollars']:.2f} at most{over}"


EVERY = 10.0
"""Seconds between the lines of a stage."""


@contextmanager
def progress(stage: str, total: int) -> Iterator[Callable[[int], None]]:
    """One bar a stage on a terminal; elsewhere a line a stage, and one every `EVERY` seconds meanwhile.

    The first of these gives no estimate: what was kept comes at once, and what comes next may wait for a model to load.
    """
    begun, done = time.monotonic(), 0
    marked, mark = begun, None  # when the last line was, and what was done then
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(stage, total=total)

        def advance(steps: int) -> None:
            nonlocal done, marked, mark
            now = time.monotonic()
            done += steps
            bar.update(task, advance=steps)
            if not err.is_terminal and now - marked >= EVERY and done < total and done != mark:
                left = "" if mark is None else f", about {(total - done) * (now - marked) / (done - mark):.0f} s left"
                err.print(f"{stage}: {done}/{total}{left}")
                marked, mark = now, done

        yield advance
    err.print(f"{stage}: {done}/{total} in {time.monotonic() - begun:.0f} s")
